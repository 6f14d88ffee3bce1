"""The index on a device finds what NumPy finds; here the device is the processor."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_db.search import flat

torch = pytest.importorskip("torch", reason="torch is not installed")
torch_flat = pytest.importorskip(
    "retrieval_db.encoder.devices.flat", reason="torch is not installed"
)


@pytest.mark.parametrize("kept_bits", [0, 3, 64])
@pytest.mark.parametrize("width", [1, 2, 4])
def test_equals_numpy(width: int, kept_bits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_flat, "DISTANCES", 600)
    monkeypatch.setattr(torch_flat, "QUERIES", 3)
    random = np.random.default_rng(width)
    mask = np.uint64((1 << kept_bits) - 1)
    for number in (0, 1, 199, 730):
        words = random.integers(0, 2**64, (width, number), dtype=np.uint64) & mask
        queries = random.integers(0, 2**64, (8, width), dtype=np.uint64) & mask
        queries[:1] = ~words[:, :1].T if number else queries[:1]
        ours = torch_flat.TorchIndex(words, 64 * width, device="cpu")
        wanted = flat.NumPyIndex(words, 64 * width)
        rows = np.flatnonzero(random.random(number) < 0.6)
        for keep in (None, 1, 10, 300, 1000):
            for radius in (0, 2, 20, 64 * width):
                for chosen in (None, rows):
                    found = ours.nearest(queries, keep, radius, chosen)
                    expected = wanted.nearest(queries, keep, radius, chosen)
                    assert len(found) == len(expected) == 8
                    for one, other in zip(found, expected, strict=True):
                        assert one.dtype == other.dtype == np.int64
                        assert np.array_equal(one, other)


def test_few_queries_take_large_blocks() -> None:
    rows = (1 << 16) + 100
    index = torch_flat.TorchIndex(np.zeros((1, rows), dtype=np.uint64), 64, device="cpu")
    for queries, expected in ((1, [rows]), (256, [1 << 16, 100])):
        asked = index._signs(torch.zeros((queries, 8), dtype=torch.uint8))
        assert [len(part) for _, part in index._blocks(asked, None)] == expected


def test_no_queries() -> None:
    index = torch_flat.TorchIndex(np.zeros((2, 5), dtype=np.uint64), 128, device="cpu")
    assert list(index.nearest(np.zeros((0, 2), dtype=np.uint64), 3, 128)) == []
    assert index.name == "torch on cpu"
