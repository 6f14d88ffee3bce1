"""Files that torchcodec decodes: the images that Pillow would show, and Pillow for all others."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from retrieval_db import photos
from retrieval_db.encoder.devices import decoding
from retrieval_db.encoder.devices.decoding import JpegDecoder
from retrieval_db.encoder.networks.preprocess import Preprocess
from retrieval_db.errors import EncoderUnavailable, FormatError, MissingExtra, UsageError
from tests.encoder.conftest import noise

PREPROCESS = Preprocess(24, interpolation="bicubic", decoder="torchcodec")
NVJPEG = PREPROCESS.changed(decoder="nvjpeg")


def written(image: Image.Image, format: str = "JPEG", **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def turned(orientation: int, image: Image.Image) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return written(image, exif=exif)


def by_pillow(file: bytes, preprocess: Preprocess = PREPROCESS) -> Any:
    return preprocess(photos.decode(file, Path("image")))


@pytest.fixture(autouse=True)
def _with_the_extra() -> None:
    pytest.importorskip("torchcodec", reason="the extra `torchcodec` is not installed")


@pytest.fixture
def decoder() -> JpegDecoder:
    return JpegDecoder(PREPROCESS, torch.device("cpu"))


@pytest.mark.parametrize("crop", [None, 0.875, 1.0])
def test_the_same_arrays_as_of_decoded_images(crop: float | None) -> None:
    preprocess = Preprocess(24, crop=crop, decoder="torchcodec")
    files = [written(noise(seed, 40 + 9 * seed, 70 - 7 * seed)) for seed in range(5)]
    files += [written(noise(6).convert("L")), written(noise(7), progressive=True)]
    found = JpegDecoder(preprocess, torch.device("cpu"))(files)
    for array, file in zip(found, files, strict=True):
        assert array is not None
        assert array.shape == (3, 24, 24)
        assert np.array_equal(array, by_pillow(file, preprocess))


def test_every_orientation(decoder: JpegDecoder) -> None:
    image = noise(0, 50, 30)
    files = [turned(number, image) for number in range(10)]
    found = decoder(files)
    assert len({array.tobytes() for array in found if array is not None}) == 8
    for array, file in zip(found, files, strict=True):
        assert array is not None
        assert np.array_equal(array, by_pillow(file))


def test_what_is_left_to_pillow(decoder: JpegDecoder) -> None:
    whole = written(noise(0))
    broken = bytearray(whole)
    broken[: len(whole) // 2] = whole[:4] + bytes(len(whole) // 2 - 4)
    others = [
        written(noise(0), "PNG"),
        written(noise(0).convert("CMYK")),
        whole[: len(whole) // 2],
        bytes(broken),
        b"",
        b"not an image",
    ]
    assert decoder(others) == [None] * len(others)
    mixed = decoder([others[0], whole, others[2]])
    assert (mixed[0], mixed[2]) == (None, None)
    assert mixed[1] is not None
    assert np.array_equal(mixed[1], by_pillow(whole))
    assert decoder([]) == []


def test_a_file_that_only_its_decoder_refuses(decoder: JpegDecoder) -> None:
    """Headers and end are whole; the others are decoded all the same."""
    whole = written(noise(0))
    tables = whole.index(b"\xff\xc4")  # Huffman tables, without which there are no pixels
    length = int.from_bytes(whole[tables + 2 : tables + 4]) - 2
    spoilt = whole[: tables + 4] + b"\xff" * length + whole[tables + 4 + length :]
    first, second = decoder([spoilt, whole])
    assert first is None
    assert second is not None
    assert np.array_equal(second, by_pillow(whole))


def test_it_rounds_otherwise_than_pillow() -> None:
    file = written(noise(0, 300, 200))
    usual = by_pillow(file, PREPROCESS.changed(decoder="pillow"))
    distance = np.abs(by_pillow(file).astype(int) - usual)
    assert 0 < distance.max() <= 8


def test_config() -> None:
    assert "decoder" not in Preprocess().to_config()  # as in all that were stored before
    config = json.loads(json.dumps(PREPROCESS.to_config()))
    assert config["decoder"] == "torchcodec"
    assert Preprocess.from_config(config) == PREPROCESS
    with pytest.raises(FormatError, match="pillow, torchcodec, nvjpeg"):
        Preprocess.from_config({**config, "decoder": "magick"})
    for other in (Preprocess(interpolation="lanczos"), Preprocess(mean=(0.5,), std=(0.5,))):
        for name in ("torchcodec", "nvjpeg"):
            with pytest.raises(UsageError, match=f"{name} .*take pillow"):
                other.changed(decoder=name)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torchcodec", None)
    with pytest.raises(MissingExtra, match=r"retrieval-db\[torchcodec\]"):
        JpegDecoder(PREPROCESS, torch.device("cpu"))


def test_the_device_of_the_network_changes_nothing() -> None:
    """One fingerprint, one kind of pixels: torchcodec's are the processor's everywhere."""
    made = JpegDecoder(PREPROCESS, torch.device("cuda"))
    file = written(noise(0))
    assert made.device.type == "cpu"
    assert np.array_equal(made([file])[0], by_pillow(file))  # type: ignore[arg-type]


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_nvjpeg_without_a_gpu(device: str) -> None:
    with pytest.raises(EncoderUnavailable, match=r"another --decoder"):
        JpegDecoder(NVJPEG, torch.device(device))


def test_what_breaks_for_every_file_is_not_left_to_pillow(
    decoder: JpegDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: Any, **options: Any) -> Any:
        raise RuntimeError("no kernel image is available\nand more lines")

    file = written(noise(0))
    monkeypatch.setattr(decoding, "resized", broken)
    with pytest.raises(EncoderUnavailable, match=r"here \(no kernel image is available\)"):
        JpegDecoder(PREPROCESS, torch.device("cpu"))
    with pytest.raises(RuntimeError, match="no kernel"):
        decoder([file])
    monkeypatch.setattr(decoder, "_decode", broken)
    with pytest.raises(RuntimeError, match="no kernel"):
        decoder([file, file])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_nvjpeg_shows_the_same_images() -> None:
    files = [turned(number, noise(number, 300, 200)) for number in range(1, 9)]
    for array, file in zip(JpegDecoder(NVJPEG, torch.device("cuda"))(files), files, strict=True):
        assert array is not None
        assert np.abs(array.astype(int) - by_pillow(file)).mean() < 2
