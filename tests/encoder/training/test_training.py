"""Training of a whole network: what comes out, what is left out, and what cannot be trained."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoder import training
from retrieval_db.encoder.datasets import Dataset
from retrieval_db.encoder.datasets.images import Files, Pixels, Stored
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.networks import cifar
from retrieval_db.errors import EncoderError, ImageError, NotEnoughImages, UsageError
from tests.encoder.training.colours import FEW, coloured, every, prepared, train_network


def test_heads_for_several_widths_share_one_network(trained: training.Trained) -> None:
    assert [(one.name, one.bits) for one in trained.encoders] == [("small-8", 8), ("small-12", 12)]
    first, second = trained.encoders
    assert first.backbone.module is second.backbone.module
    assert trained.images == 48
    assert trained.skipped == ()
    assert [epoch.epoch for epoch in trained.curve] == [1, 2]
    test = coloured(30, seed=1)
    for made in trained.encoders:
        features, outputs = made.encode(prepared(made, test))
        assert outputs.shape == (30, made.bits)
        wanted = [test.label_name(row) for row in range(30)]
        assert np.mean(np.array(made.predict(outputs)) == wanted) > 0.9
        assert len(made.classify(features)) == 30


def test_the_same_seed_gives_the_same_encoder(trained: training.Trained) -> None:
    before = torch.random.get_rng_state()
    again = train_network(coloured(48))
    assert torch.equal(torch.random.get_rng_state(), before)
    prints = [made.fingerprint for made in trained.encoders]
    assert [made.fingerprint for made in again.encoders] == prints
    other = train_network(coloured(48), replace(FEW, seed=1, epochs=1))
    assert other.encoders[0].fingerprint != prints[0]


def test_one_file_of_several_encoders(trained: training.Trained, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    encoder.save_all(trained.encoders, path)
    single = tmp_path / "single.safetensors"
    encoder.save(trained.encoders[0], single)
    assert path.stat().st_size < 1.1 * single.stat().st_size  # the network is in it once
    assert [made.fingerprint for made in encoder.open_all(path)] == [
        made.fingerprint for made in trained.encoders
    ]
    batch = prepared(trained.encoders[0], coloured(6))
    for chosen in ({"name": "small-12"}, {"bits": 12}):
        again = encoder.open_file(path, **chosen)
        assert again.name == "small-12"
        assert np.array_equal(again.encode(batch)[1], trained.encoders[1].encode(batch)[1])
    with pytest.raises(UsageError, match=r"small-8, small-12.*small\.safetensors:small-8"):
        encoder.open_file(path)
    with pytest.raises(UsageError, match="small-8"):
        encoder.open_file(single, bits=12)
    assert encoder.open_file(single).name == "small-8"


def test_the_images_it_learnt_from_are_known_afterwards(
    trained: training.Trained, tmp_path: Path
) -> None:
    encoder.save_all(trained.encoders, tmp_path / "small.safetensors")
    data = coloured(48)
    expected = [np.frombuffer(data.images.read(row).sha256, np.uint8) for row in range(48)]
    for made in encoder.open_all(tmp_path / "small.safetensors"):
        assert isinstance(made, NetworkEncoder)
        assert made.training_sha256 is not None
        assert np.array_equal(made.training_sha256, expected)


def test_a_compact_file_is_half_as_large(tmp_path: Path) -> None:
    whole = train_network(coloured(24), replace(FEW, epochs=1, bits=(8,)))
    encoder.save_all(whole.encoders, tmp_path / "whole.safetensors")
    halves = training.compact(whole.encoders)
    encoder.save_all(halves, tmp_path / "half.safetensors")
    sizes = [(tmp_path / f"{name}.safetensors").stat().st_size for name in ("whole", "half")]
    assert sizes[1] < 0.55 * sizes[0]
    again = encoder.open_file(tmp_path / "half.safetensors")
    assert again.fingerprint == halves[0].fingerprint
    assert isinstance(again, NetworkEncoder)
    assert again.training_sha256 is not None
    assert again.training_sha256.shape == (24, 8)
    batch = prepared(halves[0], coloured(6))
    assert np.array_equal(again.encode(batch)[1], halves[0].encode(batch)[1])


def test_unseen_classes_are_no_classes_of_the_encoder() -> None:
    data = coloured(48)
    rows = np.flatnonzero(data.labels != 1)
    one = train_network(data, replace(FEW, epochs=1, bits=(8,)), rows=rows).encoders[0]
    assert one.head is not None
    assert one.head.classes == ("blue", "red")
    assert one.name == "small"


def test_the_whole_of_a_pretrained_network_is_trained(mobilenet: Path, tmp_path: Path) -> None:
    base = training.unfitted("mobilenet_v2", weights=mobilenet, changes={"input_size": 32})
    recipe = training.usual_recipe("orthohash", "mobilenet_v2", False).changed(
        bits=(8,), epochs=1, batch_size=6
    )
    data = coloured(12)
    made = training.train(data, every(data), base, recipe, name="x", frozen=False).encoders[0]
    assert made.backbone.sha256 is None
    encoder.save(made, tmp_path / "x.safetensors")
    again = encoder.open_file(tmp_path / "x.safetensors")
    batch = prepared(made, data)
    assert np.array_equal(again.encode(batch)[1], made.encode(batch)[1])
    # And further, on larger images; or heads alone, on the network as it is.
    file = tmp_path / "x.safetensors"
    kept = training.unfitted("mobilenet_v2", weights=file)
    np.testing.assert_array_equal(kept.features(batch), made.features(batch))
    base = training.unfitted("mobilenet_v2", weights=file, changes={"input_size": 40})
    assert base.preprocess == replace(made.preprocess, input_size=40)
    larger = prepared(base, data)
    before = base.features(larger)
    (last,) = training.train(data, every(data), base, recipe, name="y", frozen=False).encoders
    assert not np.array_equal(last.features(larger), before)
    with pytest.raises(UsageError, match="is an encoder with mobilenet_v2, not with resnet18"):
        training.unfitted("resnet18", weights=file)


class Broken(Pixels):
    """Images of which the second cannot be decoded, and the third not even be read."""

    def read(self, index: int) -> Stored:
        if index == 2:
            raise ImageError("c.jpg: permission denied")
        stored = super().read(index)
        return replace(stored, decode=broken) if index == 1 else stored


def broken() -> Image.Image:
    raise ImageError("b.jpg: not an image")


def test_broken_images_are_left_out_and_listed(backbone: NetworkEncoder) -> None:
    data = coloured(30)
    assert isinstance(data.images, Pixels)
    spoilt = replace(data, images=Broken("broken", data.images.data))
    found = train_network(spoilt, replace(FEW, epochs=1))
    assert found.images == 28
    assert sorted(found.skipped) == ["b.jpg: not an image", "c.jpg: permission denied"]
    recipe = replace(FROZEN, bits=(8,), epochs=1)
    frozen = training.train(spoilt, every(data), backbone, recipe, name="x", frozen=True)
    assert frozen.images == 28
    assert len(frozen.skipped) == 2


@pytest.mark.parametrize("frozen", [True, False])
def test_classes_whose_images_are_broken(
    frozen: bool, backbone: NetworkEncoder, tmp_path: Path
) -> None:
    """Of six images the second and the third, of green and of red; then all of them."""
    data = coloured(6)
    assert isinstance(data.images, Pixels)
    spoilt = replace(data, images=Broken("broken", data.images.data))

    def run(data: Dataset) -> training.Trained:
        recipe = (FROZEN if frozen else FEW).changed(bits=(8,), epochs=1)
        base = backbone if frozen else training.unfitted("cifar", device="cpu")
        return training.train(
            data, every(data), base, recipe, name="x", frozen=frozen, cache_dir=tmp_path
        )

    with pytest.raises(NotEnoughImages, match=r"of 'green', 'red'\. The first .* b\.jpg: not an"):
        run(spoilt)
    files = Files([tmp_path / f"{number}.png" for number in range(6)])
    message = r"None of .* The first: .*0\.png: No such file or directory\. If .*--root"
    with pytest.raises(ImageError, match=message):
        run(replace(data, images=files))


def test_the_first_layer_whitens() -> None:
    data = coloured(60)
    assert isinstance(data.images, Pixels)
    x = torch.from_numpy(data.images.data.transpose(0, 3, 1, 2)).float() / 255
    module, dim = cifar.network("cifar")
    cifar.whiten(module, x)
    assert isinstance(module, torch.nn.Sequential)
    with torch.inference_mode():
        rows = module[0](x).permute(0, 2, 3, 1).reshape(-1, 24)[:, :12]
        assert module(x).shape == (60, dim)
    np.testing.assert_allclose(np.cov(rows.numpy().T), np.eye(12), atol=0.1)


def test_what_cannot_be_trained() -> None:
    data = coloured(12)
    one = replace(data, labels=np.zeros(12, np.int64))
    with pytest.raises(NotEnoughImages, match=r"two classes \(all are 'blue'\)"):
        train_network(one)
    with pytest.raises(NotEnoughImages, match="one alone is there of 'red'"):
        train_network(data, rows=np.array([0, 1, 2, 3, 4]))
    with pytest.raises(UsageError, match="itq is fitted on features that stay"):
        train_network(data, replace(FEW, method="itq"))
    base = training.unfitted("cifar")
    with pytest.raises(UsageError, match="cifar begins with random weights"):
        training.train(data, every(data), base, FROZEN, name="x", frozen=True)
    with pytest.raises(UsageError, match=r"x\.pth cannot be read"):
        training.unfitted("cifar", weights=Path("x.pth"))
    with pytest.raises(EncoderError, match="infinite"):
        train_network(data, replace(FEW, learning_rate=1e30, batch_size=4))
    with pytest.raises(EncoderError, match="infinite"):  # by the last step, which is in no loss
        train_network(data, replace(FEW, learning_rate=1e30, batch_size=12, epochs=1))


def test_mixed_precision() -> None:
    found = train_network(coloured(24), replace(FEW, precision="bfloat16", epochs=1))
    assert np.isfinite(found.curve[0].loss)
