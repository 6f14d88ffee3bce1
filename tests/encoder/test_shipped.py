"""The small encoders that come with the program."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from retrieval_db import encoder
from retrieval_db.encoder import SHIPPED, checkpoint
from retrieval_db.encoder.datasets import open_data
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.errors import FormatError, UsageError
from tests import command

FOLDER = Path(encoder.__file__).parent / "shipped"


@pytest.mark.parametrize("name", [f"cifar10-{bits}" for bits in (12, 16, 32, 48, 64, 128)])
def test_each_works_without_any_download(name: str) -> None:
    made = encoder.create(name)
    assert isinstance(made, NetworkEncoder)
    assert made.fitted
    assert made.name == name == f"cifar10-{made.bits}"
    batch = np.stack([made.prepare(command.photo(seed)) for seed in range(3)])
    outputs = made.encode(batch)[1]
    assert outputs.shape == (3, made.bits)
    assert np.array_equal(encoder.create(name, name="mine").encode(batch)[1], outputs)


def test_their_file_is_small_and_knows_its_training_images() -> None:
    assert (FOLDER / "cifar10.safetensors").stat().st_size <= 3_000_000
    for made in encoder.open_all(FOLDER / "cifar10.safetensors"):
        assert isinstance(made, NetworkEncoder)
        assert made.training_sha256 is not None
        assert len(made.training_sha256) == 50_000


def test_what_they_do_not_take() -> None:
    with pytest.raises(UsageError, match="brings its own network"):
        encoder.create("cifar10-48", mean=0.5)
    with pytest.raises(UsageError, match="48 bits, not 32"):
        encoder.create("cifar10-48", bits=32)
    with pytest.raises(UsageError, match="Ready-made encoders are cifar10-12"):
        encoder.create("cifar10-20")


def test_the_figures_beside_them_are_theirs(data_dir: Path) -> None:
    """200 of the test images: their classes are named about as often as it says there."""
    told = json.loads((FOLDER / "cifar10.json").read_text())
    images = open_data(f"cifar10:{data_dir / 'cifar10' / 'cifar10_jpeg.npz'}")
    rows = images.splits["test"][::50]
    made = encoder.create("cifar10-64")
    assert isinstance(made, NetworkEncoder)
    _, outputs = made.encode(np.stack([made.prepare(images.images[row]) for row in rows]))
    found = np.mean(np.array(made.predict(outputs)) == [images.label_name(row) for row in rows])
    (line,) = [line for line in told["widths"] if line["bits"] == 64]
    assert found == pytest.approx(line["predicted_label"]["accuracy"], abs=0.09)


@pytest.mark.parametrize(
    ("network", "dim"),
    [("cifar_medium", 225), ("small_cnn", 225), ("small_cnn", 10**9), ("mobilenet_v2", 224)],
)
def test_another_network_than_that_of_the_weights(network: str, dim: int, tmp_path: Path) -> None:
    """Refused when it is opened, before anything of that size is allocated."""
    name, config, tensors = checkpoint.unpack_all(SHIPPED["cifar10-12"].read_bytes())[0]
    config["backbone"] |= {"name": network, "feature_dim": dim}
    path = tmp_path / "other.safetensors"
    path.write_bytes(checkpoint.pack(name, config, tensors))
    with pytest.raises(FormatError, match="do not fit its network"):
        encoder.open_file(path, device="cpu")
