"""Training: the loop, resumption, what comes out, and the cache of features."""

from __future__ import annotations

import csv
import itertools
import tracemalloc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoder import training
from retrieval_db.encoder.datasets import Dataset
from retrieval_db.encoder.datasets.images import Pixels, Stored
from retrieval_db.encoder.features import extract
from retrieval_db.encoder.hashing import heads
from retrieval_db.encoder.hashing.heads import LinearHead
from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.hashing.recipes import FROM_NOTHING, FROZEN, Recipe
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.networks import cifar
from retrieval_db.encoder.networks.preprocess import Preprocess
from retrieval_db.encoder.training import curves, loop, sources
from retrieval_db.encoder.training.loop import Epoch
from retrieval_db.encoder.training.sources import FeatureSource, PixelSource, Standard
from retrieval_db.encoder.training.watch import Watch
from retrieval_db.errors import (
    EncoderError,
    FormatError,
    ImageError,
    NotEnoughImages,
    UsageError,
)

COLOURS = {"blue": (40, 60, 200), "green": (60, 180, 60), "red": (200, 40, 40)}
FEW = FROM_NOTHING.changed(bits=(8, 12), epochs=2, batch_size=12)


def coloured(count: int, seed: int = 0) -> Dataset:
    """Photos of noise with a colour, which is their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    base = np.array([COLOURS[name] for name in COLOURS])[labels]
    noise = random.integers(-60, 60, (count, 32, 32, 3))
    pixels = (base[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    return Dataset("colours", Pixels("colours", pixels), labels.astype(np.int64), tuple(COLOURS))


def every(data: Dataset) -> Any:
    return np.arange(len(data))


def train_network(data: Dataset, recipe: Recipe = FEW, **options: Any) -> training.Trained:
    base = training.unfitted("cifar", device="cpu")
    rows = options.pop("rows", every(data))
    return training.train(data, rows, base, recipe, name="small", frozen=False, **options)


def prepared(made: NetworkEncoder, data: Dataset) -> Any:
    return np.stack([made.prepare(data.images[row]) for row in range(len(data))])


@pytest.fixture(scope="module")
def trained() -> training.Trained:
    return train_network(coloured(48))


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


def test_a_state_of_other_weights_is_refused(trained: training.Trained, tmp_path: Path) -> None:
    """Also where the weights come from encoders, which no file's hash tells apart."""
    other = train_network(coloured(48), replace(FEW, seed=1, epochs=1))
    files = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    encoder.save(trained.encoders[0], files[0])
    encoder.save(other.encoders[0], files[1])
    state = tmp_path / "small.state"

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    def go_on(file: Path, **options: Any) -> training.Trained:
        data, base = coloured(48), training.unfitted("cifar", weights=file, device="cpu")
        return training.train(
            data, every(data), base, FEW, name="small", frozen=False, state=state, **options
        )

    with pytest.raises(KeyboardInterrupt):
        go_on(files[0], watch=Watch(epoch=stop))
    with pytest.raises(UsageError, match="other settings or images"):
        go_on(files[1], resume=True)
    assert len(go_on(files[0], resume=True).curve) == 2


def test_an_interrupted_training_goes_on_to_the_same_encoder(
    trained: training.Trained, tmp_path: Path
) -> None:
    state = tmp_path / "small.state"
    told: list[Epoch] = []

    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_network(coloured(48), state=state, watch=Watch(epoch=stop))
    assert state.exists()
    with pytest.raises(UsageError, match=r"interrupted: --resume"):
        train_network(coloured(48), state=state)
    with pytest.raises(UsageError, match="other settings or images"):
        train_network(coloured(48), replace(FEW, seed=1), state=state, resume=True)
    with pytest.raises(UsageError, match="other settings or images"):
        train_network(coloured(48, seed=1), state=state, resume=True)
    watch = Watch(epoch=told.append)
    resumed = train_network(coloured(48), state=state, resume=True, watch=watch)
    assert [one.fingerprint for one in resumed.encoders] == [
        one.fingerprint for one in trained.encoders
    ]
    assert [epoch.epoch for epoch in told] == [1, 2]
    again = train_network(coloured(48), state=state, resume=True)  # it was complete
    assert again.encoders[0].fingerprint == resumed.encoders[0].fingerprint
    state.write_bytes(b"half of a file")
    with pytest.raises(FormatError, match="damaged"):
        train_network(coloured(48), state=state, resume=True)


def test_a_state_from_before_gpus_were_saved(trained: training.Trained, tmp_path: Path) -> None:
    state = tmp_path / "small.state"

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(coloured(48), state=state, watch=Watch(epoch=stop))
    content = torch.load(state, weights_only=True)
    del content["cuda"]
    torch.save(content, state)
    resumed = train_network(coloured(48), state=state, resume=True)
    assert resumed.encoders[0].fingerprint == trained.encoders[0].fingerprint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_goes_on_with_the_same_random_numbers(tmp_path: Path) -> None:
    drawn: list[torch.Tensor] = []

    class Dropout(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(4, device=x.device).cpu())
            return x

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    def run(**options: Any) -> list[torch.Tensor]:
        drawn.clear()
        rows = np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)
        source = FeatureSource(rows, torch.device("cuda"))
        recipe = FROZEN.changed(bits=(8,), epochs=2, batch_size=12)
        loop.train(Dropout(), 5, source, np.arange(24) % 3, 3, recipe, device="cuda", **options)
        return list(drawn)

    whole = run()
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(state=state, report=stop)
    assert torch.equal(torch.stack(whole[2:]), torch.stack(run(state=state, resume=True)))


def test_where_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU only while they leave it half of its free memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    gpu, processor = torch.device("cuda"), torch.device("cpu")
    assert sources._place(49, gpu) == gpu
    assert sources._place(50, gpu) == processor
    assert sources._place(1 << 40, processor) == processor


def test_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, but for the product, whose sums may be of another order."""
    random = np.random.default_rng(0)
    features = random.standard_normal((300, 33)).astype(np.float32)
    images = random.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    head = LinearHead(features[:33, :16].copy(), features[0, :16].copy(), normalize=True)

    def found() -> tuple[Any, ...]:
        standard = Standard.of(features)
        return standard.mean, standard.scale, standard(features), sources._laid_out(images, 2)

    whole, outputs = found(), head(features)
    monkeypatch.setattr(heads, "BLOCK", 7)
    monkeypatch.setattr(sources, "ROWS", 7)
    for one, other in zip(whole, found(), strict=True):
        assert np.array_equal(one, other)
    np.testing.assert_allclose(head(features), outputs, rtol=1e-6, atol=1e-7)
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert whole[1] == np.sqrt(((x - x.mean(axis=0)) ** 2).mean())


def test_features_are_not_held_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 they take twice the memory already."""
    features = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    images = np.zeros((400, 3, 32, 32), np.uint8)
    head = LinearHead(features[:64, :16].copy(), features[0, :16].copy(), normalize=True)
    standard = Standard.of(features)
    monkeypatch.setattr(heads, "BLOCK", 50)
    monkeypatch.setattr(sources, "ROWS", 5)
    works: tuple[tuple[Callable[[], Any], float], ...] = (
        (lambda: Standard.of(features), 2.2 * features.nbytes),
        (lambda: standard(features), 1.2 * features.nbytes),
        (lambda: head(features), 0.5 * features.nbytes),
        (lambda: sources._laid_out(images, 2), 1.5 * images.nbytes),
    )
    for work, most in works:
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


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


def test_a_compact_file_is_half_as_large(trained: training.Trained, tmp_path: Path) -> None:
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


def test_curves(trained: training.Trained, tmp_path: Path) -> None:
    curves.write_csv(trained.curve, tmp_path / "small.csv")
    with (tmp_path / "small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [epoch.loss for epoch in trained.curve]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    curves.plot(trained.curve, tmp_path / "small.png", "colours")
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.size[0] > 500


def test_held_out_images_are_watched() -> None:
    data = coloured(60)
    rows, held = every(data)[:48], every(data)[48:]
    found = train_network(data, replace(FEW, bits=(8,)), rows=rows, held_out=held)
    for epoch in found.curve:
        assert epoch.validation is not None
        assert 0 <= epoch.validation <= 1


@pytest.fixture
def backbone(mobilenet: Path) -> NetworkEncoder:
    return training.unfitted("mobilenet_v2", weights=mobilenet, changes={"input_size": 32})


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


def test_cuts_and_mirror_images() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    preprocess = Preprocess(4, (0.0,) * 3, (1 / 255,) * 3, crop=1.0)
    source = PixelSource(images, preprocess, torch.device("cpu"), shift=1, mirror=True)
    rows, generator = torch.tensor([0, 1]), torch.Generator().manual_seed(0)
    np.testing.assert_allclose(source.plain(rows).numpy(), images, rtol=1e-6)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    mirrored = []
    for epoch in range(40):
        for shown, own in zip(source.batch(rows, epoch, generator).numpy(), padded, strict=True):
            cuts = [own[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
            plain = any(np.allclose(shown, cut) for cut in cuts)
            turned = any(np.allclose(shown, cut[:, :, ::-1]) for cut in cuts)
            assert plain or turned
            mirrored.append(turned and not plain)
    for image in (mirrored[::2], mirrored[1::2]):  # every other epoch, but for palindromes
        assert not any(a and b for a, b in itertools.pairwise(image))
        assert sum(image) > 10


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


def test_standardised_features_fold_back() -> None:
    features = np.random.default_rng(0).gamma(1.0, size=(40, 6)).astype(np.float32)
    standard = Standard.of(features)
    ready = standard(features)
    assert ready.std() == pytest.approx(1, abs=1e-3)
    layer = torch.nn.Linear(6, 4)
    from retrieval_db.encoder.training.objectives import linear

    head = linear(layer)
    np.testing.assert_allclose(standard.folded(head)(features), head(ready), atol=1e-5)


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


def test_what_cannot_be_trained(backbone: NetworkEncoder) -> None:
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sift"}, "Unknown method 'sift'"),
        ({"method": "itq48"}, "without bits: itq, not itq48"),
        ({"method": "phash"}, "ready as they are"),
        ({"bits": ()}, "at least one"),
        ({"bits": (48, 48)}, "named twice"),
        ({"bits": (30,)}, "multiple of 4"),
        ({"options": {"margine": 1.0}}, "no option 'margine'; those it has: scale, margin"),
        ({"method": "latent_ce", "options": {"m": 1.0}}, "those it has: nested"),
        ({"epochs": 0}, "epochs must be more than 0"),
        ({"batch_size": 1}, "at least 2 images"),
        ({"learning_rate": -1.0}, "learning rate must be"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"optimizer": "lion"}, "sgd, adamw"),
    ],
)
def test_impossible_recipes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(FROZEN, **change)


def test_mixed_precision() -> None:
    found = train_network(coloured(24), replace(FEW, precision="bfloat16", epochs=1))
    assert np.isfinite(found.curve[0].loss)
