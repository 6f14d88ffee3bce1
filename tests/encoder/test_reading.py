"""Images of a data set on their way to an encoder: read once, decoded by what it decodes with."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_db.encoder import create, training
from retrieval_db.encoder.datasets.images import Encoded, Stored
from retrieval_db.encoder.features import extract, prepare
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.outputs import respond
from retrieval_db.encoder.reading import Ready, read
from tests.encoder.conftest import noise

COUNT = 40
ROWS = np.arange(COUNT)


@dataclass(frozen=True)
class Counted(Encoded):
    """How often each image was read."""

    times: Counter[int] = field(default_factory=Counter)

    def read(self, index: int) -> Stored:
        self.times[index] += 1
        return super().read(index)


@pytest.fixture
def images() -> Counted:
    """JPEGs, but for a PNG and a file that is broken."""
    files = []
    for seed in range(COUNT):
        buffer = io.BytesIO()
        noise(seed).save(buffer, "PNG" if seed == 3 else "JPEG")
        files.append(buffer.getvalue()[: 100 if seed == 7 else None])
    ends = np.cumsum([0, *map(len, files)])
    return Counted("made", np.frombuffer(b"".join(files), np.uint8), ends)


@pytest.fixture
def network(mobilenet: Path) -> NetworkEncoder:
    made = create("itq16", weights=mobilenet, input_size=32, device="cpu")
    assert isinstance(made, NetworkEncoder)
    return made


def test_in_order_and_with_what_is_wrong(images: Counted) -> None:
    found = list(read(create("phash64"), images, ROWS[::-1]))
    assert isinstance(found[COUNT - 1 - 7], str)
    ready = [one for one in found if isinstance(one, Ready)]
    assert [one.row for one in ready] == [row for row in ROWS[::-1].tolist() if row != 7]
    for one in ready:
        content = images.data[images.offsets[one.row] : images.offsets[one.row + 1]]
        assert one.sha256 == hashlib.sha256(content.tobytes()).digest()
    known = {one.sha256 for one in ready if one.row < 20}
    again = read(create("phash64"), images, ROWS, known=known.__contains__)
    unknown = [one.row for one in again if isinstance(one, Ready) and one.array is not None]
    assert unknown == list(range(20, COUNT))


def test_each_image_is_read_once(images: Counted, network: NetworkEncoder, tmp_path: Path) -> None:
    once = dict.fromkeys(range(COUNT), 1)
    prepare(network, images, ROWS)
    assert images.times == once
    images.times.clear()
    extract(network, images, ROWS, cache_dir=tmp_path)
    assert images.times == once
    images.times.clear()
    respond(create("phash64"), images, ROWS)
    assert images.times == once


def test_what_the_encoder_decodes_with(
    images: Counted, network: NetworkEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torchcodec", reason="the extra `torchcodec` is not installed")
    from retrieval_db.encoder.devices.decoding import JpegDecoder

    decode, decoded = JpegDecoder.__call__, Counter[str]()

    def counted(self: JpegDecoder, files: Sequence[bytes]) -> list[Any]:
        arrays = decode(self, files)
        decoded["files"] += sum(array is not None for array in arrays)
        return arrays

    monkeypatch.setattr(JpegDecoder, "__call__", counted)
    changes = {"decoder": "torchcodec", "input_size": 32}
    small = training.unfitted("cifar", device="cpu", changes=changes)
    for work in (prepare, respond):
        assert len(work(small, images, ROWS).rows) == COUNT - 1
        assert decoded.pop("files") == COUNT - 2
    prepare(network, images, ROWS)
    assert not decoded
