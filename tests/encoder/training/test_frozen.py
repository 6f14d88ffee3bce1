"""Heads on the features of a network that stays as it is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval_db import encoder
from retrieval_db.encoder import training
from retrieval_db.encoder.features import extract
from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.errors import EncoderError, FormatError, UsageError
from tests.encoder.training.colours import FEW, coloured, every, prepared, train_network


@pytest.mark.parametrize("method", ["orthohash", "latent_ce", "triplet", "dplm", "itq"])
def test_frozen_features(method: str, backbone: NetworkEncoder, tmp_path: Path) -> None:
    data = coloured(60)
    options = {"anchors": 20.0} if method == "dplm" else {}
    recipe = replace(FROZEN, method=method, bits=(8,), epochs=4, batch_size=20, options=options)
    found = training.train(data, every(data), backbone, recipe, name="x", frozen=True)
    made = found.encoders[0]
    assert (made.method, made.name) == (method, "x")
    assert made.backbone.sha256 == backbone.backbone.sha256  # the network is as it was
    encoder.save(made, tmp_path / "x.safetensors")
    assert (tmp_path / "x.safetensors").stat().st_size < 500_000
    again = encoder.open_file(tmp_path / "x.safetensors")
    assert again.fingerprint == made.fingerprint
    batch = prepared(made, data)
    features, outputs = made.encode(batch)
    assert np.array_equal(again.encode(batch)[1], outputs)
    assert made.training_sha256 is not None
    if METHODS[method].trained:
        wanted = [data.label_name(row) for row in range(60)]
        assert np.mean(np.array(made.classify(features)) == wanted) > 0.9
    if method in ("triplet", "dplm"):
        with pytest.raises(EncoderError, match="names no class"):
            made.predict(outputs)
    if method == "itq":
        with pytest.raises(EncoderError, match="not trained on labels"):
            made.predict(outputs)


def test_features_are_computed_once(
    backbone: NetworkEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = coloured(20)
    computed: list[int] = []
    plain = NetworkEncoder.features

    def counted(self: NetworkEncoder, batch: Any) -> Any:
        computed.append(len(batch))
        return plain(self, batch)

    monkeypatch.setattr(NetworkEncoder, "features", counted)
    first = extract(backbone, data.images, np.arange(12), cache_dir=tmp_path)
    # Others, in another order, and some again.
    second = extract(backbone, data.images, np.arange(19, 3, -1), cache_dir=tmp_path)
    assert computed == [12, 8]
    np.testing.assert_array_equal(second.features[second.rows == 5], first.features[5:6])
    np.testing.assert_array_equal(
        second.features, plain(backbone, prepared(backbone, data))[19:3:-1]
    )
    other = replace(backbone, preprocess=backbone.preprocess.changed(mean=0.3))
    extract(other, data.images, np.arange(2), cache_dir=tmp_path)
    assert computed == [12, 8, 2]
    for block in tmp_path.rglob("*.npz"):
        block.write_bytes(b"damaged")
    again = extract(backbone, data.images, np.arange(12), cache_dir=tmp_path)
    np.testing.assert_array_equal(again.features, first.features)
    for block in tmp_path.rglob("*.npz"):
        content = bytearray(block.read_bytes())
        content[len(content) // 2] ^= 1
        block.write_bytes(content)
    again = extract(backbone, data.images, np.arange(12), cache_dir=tmp_path)
    np.testing.assert_array_equal(again.features, first.features)


class TestHeadsOnATrainedNetwork:
    """An encoder's network, with heads of another method."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> Path:
        trained = train_network(coloured(48))
        encoder.save_all(trained.encoders, tmp_path / "first.safetensors")
        return tmp_path / "first.safetensors"

    def test_the_network_stays_as_it_is(self, file: Path, tmp_path: Path) -> None:
        data = coloured(48)
        before = encoder.open_all(file)[0]
        base = training.unfitted("cifar", weights=file, device="cpu")
        recipe = training.usual_recipe("csq", "cifar", frozen=True).changed(bits=(16,), epochs=3)
        (made,) = training.train(
            data, every(data), base, recipe, name="second", frozen=True, cache_dir=tmp_path
        ).encoders
        encoder.save(made, tmp_path / "second.safetensors")
        after = encoder.open_file(tmp_path / "second.safetensors")
        image = np.stack([after.prepare(data.images[0])])
        assert isinstance(before, NetworkEncoder)
        assert isinstance(after, NetworkEncoder)
        assert (after.method, after.bits, after.fitted) == ("csq", 16, True)
        np.testing.assert_array_equal(after.features(image), before.features(image))
        np.testing.assert_array_equal(after.outputs(after.features(image)),
                                      made.outputs(made.features(image)))  # fmt: skip

    def test_it_may_be_trained_further(self, file: Path) -> None:
        data = coloured(48)
        base = training.unfitted("cifar", weights=file, device="cpu")
        module: Any = base.backbone.module
        axes, other = module[0].weight.clone(), module[2].convolutions[0].weight.clone()
        trained = training.train(data, every(data), base, FEW, name="further", frozen=False)
        assert trained.encoders[0].preprocess == base.preprocess
        assert torch.equal(module[0].weight, axes)
        assert not torch.equal(module[2].convolutions[0].weight, other)

    def test_of_another_network_it_is_refused(self, file: Path, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="is an encoder with cifar, not with cifar_medium"):
            training.unfitted("cifar_medium", weights=file)
        encoder.save(encoder.create("phash64"), tmp_path / "p.safetensors")
        with pytest.raises(UsageError, match="is an encoder with phash64, not with cifar"):
            training.unfitted("cifar", weights=tmp_path / "p.safetensors")
        (tmp_path / "no.safetensors").write_bytes(b"nothing")
        with pytest.raises(FormatError, match=r"no\.safetensors"):
            training.unfitted("cifar", weights=tmp_path / "no.safetensors")

    def test_features_of_two_networks_are_kept_apart(self, file: Path, tmp_path: Path) -> None:
        data = coloured(6)
        one, other = (
            replace(training.unfitted("cifar", weights=file, device="cpu"), name=name)
            for name in ("one", "other")
        )
        module: Any = other.backbone.module
        with torch.no_grad():
            module[2].norms[0].bias += 1
        first, second = (
            extract(each, data.images, every(data), cache_dir=tmp_path).features
            for each in (one, other)
        )
        assert not np.array_equal(first, second)
