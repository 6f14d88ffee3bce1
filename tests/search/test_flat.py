"""Flat indexes find what sorting all distances finds; ties go to the lower row."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_db.search import flat

INDEXES: list[flat.Factory] = [flat.NumPyIndex, flat.FaissIndex]


def distances(words: flat.PackedWords, query: flat.PackedWords) -> flat.Rows:
    """By single bits: int64 [N]."""
    bits = np.unpackbits(np.ascontiguousarray(words.T ^ query).view(np.uint8), axis=1)
    found: flat.Rows = bits.sum(axis=1, dtype=np.int64)
    return found


@settings(max_examples=60, deadline=None)
@given(st.data())
@pytest.mark.parametrize("make", INDEXES)
def test_against_sorting(make: flat.Factory, data: st.DataObject) -> None:
    if make is flat.FaissIndex:
        pytest.importorskip("faiss")
    width = data.draw(st.sampled_from([1, 2, 4]))
    number = data.draw(st.integers(0, 300))
    random = np.random.default_rng(data.draw(st.integers(0, 1000)))
    # Few different bits: many ties.
    mask = np.uint64(data.draw(st.sampled_from([0, 7, 2**64 - 1])))
    words = random.integers(0, 2**64, (width, number), dtype=np.uint64) & mask
    queries = random.integers(0, 2**64, (3, width), dtype=np.uint64) & mask
    keep = data.draw(st.sampled_from([None, 1, 10, 400]))
    radius = data.draw(st.sampled_from([0, 1, 20, 64 * width]))
    rows = None
    if data.draw(st.booleans()):
        rows = np.flatnonzero(random.random(number) < 0.4)
    found = make(words, 64 * width).nearest(queries, keep, radius, rows)
    for keys, query in zip(found, queries, strict=True):
        away = distances(words, query)
        chosen = np.arange(number) if rows is None else rows
        wanted = sorted((int(away[row]), int(row)) for row in chosen if away[row] <= radius)
        unpacked = flat.unpack_keys(keys)
        assert list(zip(*(part.tolist() for part in unpacked), strict=True)) == wanted[:keep]


def test_the_farthest_code_of_256_bits() -> None:
    words = np.zeros((4, 5), dtype=np.uint64)
    for make in INDEXES:
        if make is flat.FaissIndex:
            pytest.importorskip("faiss")
        keys = make(words, 256).nearest(~words[:, :1].T, 3, 256)[0]
        assert flat.unpack_keys(keys)[0].tolist() == [256, 256, 256]
        assert flat.unpack_keys(keys)[1].tolist() == [0, 1, 2]


def test_default_is_faiss_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    words = np.zeros((1, 2), dtype=np.uint64)
    monkeypatch.setattr(flat, "find_spec", lambda name: None)
    assert flat.default(words, 64).name == "numpy"
    monkeypatch.undo()
    pytest.importorskip("faiss")
    assert flat.default(words, 64).name == "faiss"
