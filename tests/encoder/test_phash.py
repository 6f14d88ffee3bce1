"""Perceptual hashes."""

from __future__ import annotations

import io

import imagehash
import numpy as np
import pytest
from PIL import Image

from retrieval_db import encoder
from retrieval_db.encoders import Encoder
from retrieval_db.errors import FormatError, UsageError


@pytest.mark.parametrize(("bits", "side"), [(64, 8), (256, 16)])
def test_bits_are_those_of_imagehash(images: list[Image.Image], bits: int, side: int) -> None:
    hasher = encoder.create(f"phash{bits}")
    features, outputs = hasher.encode(np.stack([hasher.prepare(image) for image in images]))
    assert features is None
    assert outputs.dtype == np.float32
    assert set(np.unique(outputs)) == {-1.0, 1.0}
    for image, row in zip(images, outputs, strict=True):
        assert np.packbits(row > 0).tobytes().hex() == str(imagehash.phash(image, side))


def test_implements_the_protocol() -> None:
    hasher = encoder.create("phash64")
    assert isinstance(hasher, Encoder)
    assert (hasher.name, hasher.bits, hasher.feature_dim) == ("phash64", 64, None)
    assert hasher.artifact is None
    assert hasher.fitted


def test_fingerprint_follows_from_the_config_and_not_from_the_name() -> None:
    assert encoder.create("phash64").fingerprint == encoder.create("phash", name="x").fingerprint
    assert encoder.create("phash64").fingerprint != encoder.create("phash256").fingerprint
    # Codes in users' databases carry it: it must never change.
    assert encoder.create("phash64").fingerprint == (
        "74ac0a106cb20947c4095da4be59965030edebfaa1e9d6bb26008e30db613843"
    )


@pytest.mark.parametrize("bits", [64, 256])
def test_made_again_from_the_stored_config(bits: int) -> None:
    hasher = encoder.create(f"phash{bits}", name="mine")
    again = encoder.from_stored("mine", hasher.config, None)
    assert again == hasher
    with pytest.raises(FormatError, match="cannot make"):
        encoder.from_stored("mine", {**hasher.config, "highfreq_factor": 5}, None)
    with pytest.raises(FormatError, match="100 bits"):
        encoder.from_stored("mine", {**hasher.config, "bits": 100}, None)


@pytest.mark.parametrize(("bits", "radius"), [(64, 6), (256, 24)])
def test_a_recompressed_copy_is_within_the_default_radius(bits: int, radius: int) -> None:
    hasher = encoder.create(f"phash{bits}")
    ramp = np.add.outer(np.arange(200), np.arange(300)) % 256
    blocks = np.random.default_rng(1).integers(0, 256, (10, 15)).repeat(20, 0).repeat(20, 1)
    image = Image.fromarray(((ramp + 2 * blocks) // 3).astype(np.uint8)).convert("RGB")
    buffer = io.BytesIO()
    image.resize((240, 160)).save(buffer, "JPEG", quality=50)
    copy = Image.open(buffer)
    flips = np.count_nonzero(hasher.prepare(image) != hasher.prepare(copy))
    assert flips <= radius


def test_blank_images_share_one_code() -> None:
    hasher = encoder.create("phash64")
    red, blue = (hasher.prepare(Image.new("RGB", (30, 30), name)) for name in ("red", "blue"))
    assert np.array_equal(red, blue)


def test_other_widths_are_refused() -> None:
    with pytest.raises(UsageError, match="64 or 256 bits, not 128"):
        encoder.create("phash128")


def test_options_of_networks_are_refused() -> None:
    with pytest.raises(UsageError, match="has no network"):
        encoder.create("phash64", weights="net.safetensors")
