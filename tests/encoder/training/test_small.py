"""The small network that is trained here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.errors import FormatError, NotEnoughImages, UsageError


def shapes(count: int, colour: bool = False) -> tuple[list[Image.Image], list[str]]:
    """Bars, lying or standing, at random places in noise."""
    rng = np.random.default_rng(0)
    images, labels = [], []
    for index in range(count):
        pixels = rng.integers(0, 60, (10, 10, 3 if colour else 1), dtype=np.uint8)
        at = rng.integers(1, 9)
        if index % 2:
            pixels[at] = 200
        else:
            pixels[:, at] = 200
        images.append(Image.fromarray(pixels if colour else pixels[:, :, 0]))
        labels.append("lying" if index % 2 else "standing")
    return images, labels


@pytest.fixture(scope="module")
def trained() -> NetworkEncoder:
    return encoder.train_small(*shapes(200), 16, epochs=5)


def test_learns(trained: NetworkEncoder) -> None:
    images, labels = shapes(260)
    _, outputs = trained.encode(np.stack([trained.prepare(image) for image in images[200:]]))
    assert outputs.shape == (60, 16)
    assert (
        np.mean([a == b for a, b in zip(trained.predict(outputs), labels[200:], strict=True)]) > 0.9
    )
    codes = outputs > 0
    distances = (codes[:, None] != codes).sum(axis=2)
    same = np.equal.outer(labels[200:], labels[200:])
    assert distances[same].mean() * 3 < distances[~same].mean()


def test_the_same_each_time_and_leaves_the_callers_generator_alone(
    trained: NetworkEncoder,
) -> None:
    before = torch.random.get_rng_state()
    again = encoder.train_small(*shapes(200), 16, epochs=5, name="again")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert again.fingerprint == trained.fingerprint
    other = encoder.train_small(*shapes(200), 16, epochs=5, seed=1)
    assert other.fingerprint != trained.fingerprint


def test_grey_images_come_back_as_rgb(trained: NetworkEncoder) -> None:
    """Loaders hand over RGB; the code must not depend on it."""
    assert trained.preprocess.channels == 1
    image = shapes(1)[0][0]
    assert np.array_equal(trained.prepare(image), trained.prepare(image.convert("RGB")))


def test_the_artifact_holds_the_whole_network(trained: NetworkEncoder, tmp_path: Path) -> None:
    path = tmp_path / "small.safetensors"
    encoder.save(trained, path)
    again = encoder.open_file(path)
    assert isinstance(again, NetworkEncoder)
    assert again.fingerprint == trained.fingerprint
    batch = np.stack([trained.prepare(image) for image in shapes(20)[0]])
    assert np.array_equal(again.encode(batch)[1], trained.encode(batch)[1])
    assert again.predict(again.encode(batch)[1]) == trained.predict(trained.encode(batch)[1])
    assert trained.artifact is not None
    _, config, tensors = encoder.checkpoint.unpack(trained.artifact)
    del tensors["backbone.0.weight"]
    damaged = encoder.checkpoint.pack("x", config, tensors)
    with pytest.raises(FormatError, match="do not fit its network"):
        encoder.from_stored("x", config, damaged)


def test_colour_and_large_images() -> None:
    images, labels = shapes(20, colour=True)
    images[0] = images[0].resize((300, 200))
    trained = encoder.train_small(images, labels, 8, epochs=1)
    assert trained.preprocess.channels == 3
    assert trained.preprocess.input_size == 64
    assert trained.name == "latent_ce8"


def test_what_cannot_be_trained() -> None:
    images, labels = shapes(4)
    with pytest.raises(UsageError, match="4 images, but 3 labels"):
        encoder.train_small(images, labels[:3])
    with pytest.raises(NotEnoughImages, match="two classes"):
        encoder.train_small(images, ["a"] * 4)
    with pytest.raises(NotEnoughImages, match="two classes"):
        encoder.train_small([], [])
    with pytest.raises(UsageError, match="multiple of 4"):
        encoder.train_small(images, labels, 30)


def test_digits() -> None:
    """Real handwritten digits, never trained on: mAP near the accuracy of the softmax."""
    datasets = pytest.importorskip("sklearn.datasets", reason="scikit-learn is not installed")
    digits = datasets.load_digits()
    images = [Image.fromarray((image * 255 / 16).astype(np.uint8)) for image in digits.images]
    labels = digits.target.astype(str)
    order = np.random.default_rng(0).permutation(len(images))
    train, test = order[:1297], order[1297:]
    trained = encoder.train_small([images[i] for i in train], list(labels[train]), 48)
    _, outputs = trained.encode(np.stack([trained.prepare(image) for image in images]))
    assert np.mean(np.array(trained.predict(outputs[test])) == labels[test]) > 0.96
    codes = outputs > 0
    precisions = []
    for query in test:
        distances = (codes[train] != codes[query]).sum(axis=1)
        relevant = (labels[train] == labels[query])[np.argsort(distances, kind="stable")]
        at = np.flatnonzero(relevant) + 1
        precisions.append(np.mean(np.arange(1, len(at) + 1) / at))
    assert np.mean(precisions) > 0.95
