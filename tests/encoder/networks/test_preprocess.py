"""From images to input arrays."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval_db.encoder.networks.preprocess import Preprocess, read_settings
from retrieval_db.errors import FormatError, UsageError


def test_gives_a_square_uint8_array_channels_first() -> None:
    image = Image.new("RGB", (300, 200), (10, 20, 30))
    array = Preprocess(input_size=32)(image)
    assert array.shape == (3, 32, 32)
    assert array.dtype == np.uint8
    assert array.flags.c_contiguous
    assert [channel.max() for channel in array] == [10, 20, 30]


def test_crop_keeps_the_middle_and_no_crop_squeezes() -> None:
    pixels = np.zeros((100, 200, 3), np.uint8)
    pixels[:, :50], pixels[:, 150:] = 255, 255
    image = Image.fromarray(pixels)
    # The antialiasing filter reaches a little over the edge of the crop.
    assert Preprocess(20, crop=1.0)(image)[:, :, 1:-1].max() == 0
    squeezed = Preprocess(20, crop=None)(image)
    assert squeezed[:, :, :4].min() == 255
    assert squeezed[:, :, 7:13].max() == 0


def test_downsizing_is_antialiased() -> None:
    chequers = (np.indices((256, 256)).sum(0) % 2 * 255).astype(np.uint8)
    array = Preprocess(16, crop=None)(Image.fromarray(chequers).convert("RGB"))
    assert np.abs(array.astype(int) - 128).max() <= 2


@pytest.mark.parametrize("size", [(1, 1), (1, 500), (500, 1), (3, 2)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    assert Preprocess(24)(Image.new("RGB", size)).shape == (3, 24, 24)


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_other_modes_are_converted(mode: str) -> None:
    assert Preprocess(24)(Image.new(mode, (50, 40))).shape == (3, 24, 24)


def test_one_channel_means_grey() -> None:
    grey = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    preprocess = Preprocess(8, (0.5,), (0.5,), crop=None)
    array = preprocess(grey.convert("RGB"))
    assert array.shape == (1, 8, 8)
    assert np.array_equal(array[0], np.asarray(grey))


def test_config_round_trip_through_json() -> None:
    preprocess = Preprocess(225, (0.5,) * 3, (0.25,) * 3, "bicubic", None)
    assert Preprocess.from_config(json.loads(json.dumps(preprocess.to_config()))) == preprocess
    assert "flip" not in preprocess.to_config()  # as in all that were stored before
    both = preprocess.changed(flip=True)
    assert both.to_config() == {**preprocess.to_config(), "flip": True}
    assert Preprocess.from_config(both.to_config()) == both


def test_changed() -> None:
    changed = Preprocess().changed(input_size=225, mean=0.5)
    assert changed == Preprocess(input_size=225, mean=(0.5, 0.5, 0.5))
    assert Preprocess().changed(std=[0.1, 0.2, 0.3]).std == (0.1, 0.2, 0.3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_size": 0}, "1 to 4096"),
        ({"mean": (0.1, 0.2)}, "Mean and std"),
        ({"std": (0.0, 0.1, 0.1)}, "greater than 0"),
        ({"mean": (float("nan"), 0.1, 0.1)}, "finite"),
        ({"interpolation": "nearest"}, "bilinear, bicubic, lanczos"),
        ({"crop": 1.5}, r"\(0, 1\]"),
        ({"flip": 1}, "true or false"),
    ],
)
def test_impossible_settings(options: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Preprocess(**options)  # type: ignore[arg-type]
    config = {**Preprocess().to_config(), **options}
    with pytest.raises(FormatError, match=message):
        Preprocess.from_config(config)


def test_config_must_be_whole() -> None:
    config = Preprocess().to_config()
    del config["crop"]
    with pytest.raises(FormatError, match="Missing preprocessing settings: crop"):
        Preprocess.from_config(config)


def test_settings_beside_a_weights_file(tmp_path: Path) -> None:
    weights = tmp_path / "net.safetensors"
    assert read_settings(weights, Preprocess()) == Preprocess()
    beside = tmp_path / "net.safetensors.json"
    beside.write_text('{"input_size": 225, "mean": 0.5, "std": [0.5, 0.5, 0.5], "crop": null}')
    assert read_settings(weights, Preprocess()) == Preprocess(
        225, (0.5,) * 3, (0.5,) * 3, crop=None
    )
    for text, message in [
        ("{", "not readable JSON"),
        ("[]", "must hold a JSON object"),
        ('{"size": 3}', "Unknown preprocessing settings: size"),
        ('{"input_size": "x"}', "Impossible"),
        ('{"mean": "x"}', "Impossible"),
    ]:
        beside.write_text(text)
        with pytest.raises(FormatError, match=message):
            read_settings(weights, Preprocess())
