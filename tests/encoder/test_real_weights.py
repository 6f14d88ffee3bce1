"""The published ImageNet weights of the shared data, on made images and on real photos."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoder.hashing.heads import unit_rows
from retrieval_db.encoder.network import NetworkEncoder

# The largest values of the feature of the image that is made below.
GOLDEN = {
    554: 3.544,
    538: 3.393,
    697: 3.360,
    941: 3.198,
    496: 2.976,
    926: 2.942,
    1069: 2.882,
    336: 2.867,
}


@pytest.fixture(scope="module")
def weights(data_dir: Path) -> Path:
    path = data_dir / "backbones" / "mobilenet_v2_imagenet.safetensors"
    if not path.is_file():
        pytest.skip(f"no {path}")
    return path


def make(spec: str, weights: Path) -> NetworkEncoder:
    made = encoder.create(spec, weights=weights, input_size=225, mean=0.5, std=0.5)
    assert isinstance(made, NetworkEncoder)
    return made


def photos(data_dir: Path, part: str, labels: list[str], each: int) -> list[Path]:
    """The first photos of some classes, in the order of `labels`."""
    folder = data_dir / "clothing" / part
    return [path for label in labels for path in sorted((folder / label).iterdir())[:each]]


def stack(made: NetworkEncoder, paths: list[Path]) -> NDArray[np.uint8]:
    arrays = []
    for path in paths:
        with Image.open(path) as image:
            arrays.append(made.prepare(image.convert("RGB")))
    return np.stack(arrays)


def test_a_made_image_gives_the_stored_feature(weights: Path) -> None:
    made = make("itq128", weights)
    assert made.config["backbone"] == {
        "name": "mobilenet_v2",
        "feature_dim": 1280,
        "published": None,
        "sha256": "dceada45a021cfa5c8f9d0d5147b99e84ca62e26d1851fa48562ffa958d18f3e",
    }
    y, x = np.mgrid[0:240, 0:320]
    pixels = np.stack([x * 255 // 319, y * 255 // 239, (x + y) % 256], axis=2).astype(np.uint8)
    prepared = made.prepare(Image.fromarray(pixels))
    assert prepared.shape == (3, 225, 225)
    (feature,) = made.features(prepared[None])
    assert feature.min() >= 0
    np.testing.assert_allclose(feature[list(GOLDEN)], list(GOLDEN.values()), atol=0.005)
    assert feature.max() == pytest.approx(max(GOLDEN.values()), abs=0.005)
    assert feature.mean() == pytest.approx(0.3207, abs=0.0005)


def test_photos_of_one_class_are_nearer_than_of_others(weights: Path, data_dir: Path) -> None:
    labels = ["shoes", "pants", "hat", "dress"]
    made = make("itq128", weights)
    database = made.features(stack(made, photos(data_dir, "train", labels, 24)))
    queries = made.features(stack(made, photos(data_dir, "validation", labels, 6)))
    truth, wanted = np.repeat(labels, 24), np.repeat(labels, 6)

    def precision(distances: NDArray[np.floating]) -> float:
        nearest = np.argsort(distances, axis=1, kind="stable")[:, :10]
        return float(np.mean(truth[nearest] == wanted[:, None]))

    assert precision(-(unit_rows(queries) @ unit_rows(database).T)) > 0.8
    fitted = make("itq64", weights).fit(database)
    assert fitted.head is not None
    assert fitted.head.method == "itq"
    codes = [fitted.head.projection(features) > 0 for features in (queries, database)]
    assert precision((codes[0][:, None] != codes[1]).sum(axis=2).astype(float)) > 0.7


def test_itq_on_photos_is_deterministic_and_survives_the_file(
    weights: Path, data_dir: Path, tmp_path: Path
) -> None:
    made = make("itq32", weights)
    batch = stack(made, photos(data_dir, "train", ["shirt", "skirt"], 20))
    features = made.features(batch)
    fitted = made.fit(features, fallback=False)
    assert made.fit(features, fallback=False).fingerprint == fitted.fingerprint
    encoder.save(fitted, tmp_path / "itq32.safetensors")
    again = encoder.open_file(tmp_path / "itq32.safetensors")
    assert again.fingerprint == fitted.fingerprint
    outputs = fitted.encode(batch)[1]
    assert np.array_equal(again.encode(batch)[1], outputs)
    alone = np.concatenate([fitted.encode(image[None])[1] for image in batch])
    assert np.array_equal(alone > 0, outputs > 0)
    assert np.count_nonzero(outputs > 0) / outputs.size == pytest.approx(0.5, abs=0.1)
