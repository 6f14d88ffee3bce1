"""Health: which bits say something, and how the codes are spread."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db import codes, connect, loading
from retrieval_db.database import Connection
from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.evaluation import health
from retrieval_db.interchange import CodeSet
from tests.evaluation.labelled import BITS
from tests.example import code_set


def healthy(rows: int, bits: int) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 2, (rows, bits), dtype=np.uint8)


def test_health_of_random_codes() -> None:
    bits = healthy(4000, 32)
    found = health.of_codes(np.packbits(bits, axis=1), 32)
    assert found.verdict == "healthy"
    assert found.findings == ()
    assert found.mean == pytest.approx(bits.mean(axis=0))
    assert found.correlation == pytest.approx(np.corrcoef(bits.T), abs=1e-9)
    assert found.entropy.min() > 0.99
    assert 31 < found.effective_bits <= 32
    values, counts = np.unique(np.packbits(bits, axis=1), axis=0, return_counts=True)
    assert (found.distinct, found.largest_group) == (len(values), counts.max())
    halves = [
        np.unique(np.packbits(bits[:, s], axis=1), axis=0, return_counts=True)[1].max()
        for s in (slice(0, 16), slice(16, 32))
    ]
    assert found.largest_bucket == max(halves)


def test_bits_that_say_nothing_are_named() -> None:
    bits = healthy(3000, 32)
    bits[:, 3] = 1
    bits[:, 7] = np.arange(3000) < 20
    bits[:, 11] = 1 - bits[:, 10]
    bits[:, 12] = bits[:, 13]
    found = health.of_codes(np.packbits(bits, axis=1), 32)
    assert found.verdict == "weak"
    assert found.findings[0].endswith("of the images: 2 of 32.")
    assert "0.95): 2 of 32;" in found.findings[1]
    assert found.entropy[3] == 0
    assert found.correlation[3, 5] == 0
    assert found.correlation[10, 11] == pytest.approx(-1)


def test_a_collapsed_encoder_is_called_that() -> None:
    bits = np.repeat(healthy(1, 32), 1000, axis=0)
    bits[:10] = healthy(10, 32)
    found = health.of_codes(np.packbits(bits, axis=1), 32)
    assert found.verdict == "collapsed"
    assert "99% of the images share one code." in found.findings
    assert found.effective_bits < 1
    one_bit = np.repeat(healthy(500, 1), 16, axis=1)
    assert health.of_codes(np.packbits(one_bit, axis=1), 16).verdict == "collapsed"
    with pytest.raises(UsageError, match="no codes"):
        health.of_codes(np.empty((0, 2), dtype=np.uint8), 16)


def test_health_over_the_table(
    connection: Connection,
    filled: tuple[CodeSet, StoredEncoder],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    items, encoder = filled
    monkeypatch.setattr(health, "BLOCK", 16)
    table = health.of_table(connection, encoder)
    memory = health.of_codes(items.codes, BITS, table.chunks)
    for key, value in memory.as_dict().items():
        same = value if key in ("verdict", "findings") else pytest.approx(value)
        assert table.as_dict()[key] == same, key
    assert sum(table.chunks) == BITS
    assert table.images == 150
    assert codes.unpack(items.codes, BITS).mean(axis=0) == pytest.approx(table.mean)


def test_health_of_wide_chunks(database_url: str) -> None:
    """A chunk may be as wide as 31 bits; its buckets are counted without a counter for each."""
    with connect(database_url) as db:
        items = code_set(np.array([[0] * 8, [0] * 7 + [1], [255] * 8], np.uint8), 64)
        loading.load(db.connection, items)
        db.tune(widths=[31, 31, 2])
        found = db.health("example")
    assert (found.chunks, found.largest_bucket, found.distinct) == ((31, 31, 2), 2, 3)
