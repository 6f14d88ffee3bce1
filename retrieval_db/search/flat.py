"""Flat indexes: packed codes in memory, searched by brute force.

Every row is compared with the query, so the answer is exact; of equal distances the lower row
comes first. Rows are in the order of their ids, so that is the rule of the database, too.

`NumPyIndex` needs nothing else; `FaissIndex` is faster where FAISS is installed; an encoder's
machine may have a third one for CUDA (`retrieval_db.encoder.devices.flat`).
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ..errors import MissingExtra

PackedWords = NDArray[np.uint64]
Rows = NDArray[np.int64]

# Rows of a block: its distances and their intermediate results stay in the processor's cache.
BLOCK = 32_768

# A key is distance << 48 | row.
ROW_BITS = 48


class FlatIndex(Protocol):
    """Exact search over packed codes in memory."""

    @property
    def name(self) -> str:
        """What does the work: `numpy`, `faiss`, `torch on cuda`."""

    def nearest(
        self,
        queries: PackedWords,
        keep: int | None,
        radius: int,
        rows: Rows | None = None,
    ) -> Sequence[Rows]:
        """Find the nearest codes of each query.

        Args:
            queries: uint64 [Q, W].
            keep: how many at most; None for all within `radius`.
            radius: largest distance, in bits.
            rows: search only these, int64 [M], ascending.

        Returns:
            For each query its keys `distance << 48 | row`, ascending, int64.
        """


# Makes an index of codes, uint64 [W, N], of so many bits. The array stays as it is.
Factory = Callable[[PackedWords, int], FlatIndex]


def default(words: PackedWords, bits: int) -> FlatIndex:
    """FAISS where it is installed, else NumPy."""
    if find_spec("faiss") is not None:
        return FaissIndex(words, bits)
    return NumPyIndex(words, bits)


def unpack_keys(keys: NDArray[np.int64]) -> tuple[NDArray[np.int32], Rows]:
    """The distances int32 and the rows int64 of keys."""
    return (keys >> ROW_BITS).astype(np.int32), keys & ((1 << ROW_BITS) - 1)


def pack_keys(distances: NDArray[Any], rows: Rows) -> NDArray[np.int64]:
    """Keys int64 of distances and rows."""
    return distances.astype(np.int64) << ROW_BITS | rows


class NumPyIndex:
    """Brute force with NumPy on one core: blocks of rows, exclusive or, population count."""

    name = "numpy"

    def __init__(self, words: PackedWords, bits: int) -> None:
        """Search these codes, uint64 [W, N], where they are; nothing is copied."""
        self._words = words
        # 256 differing bits are one more than a byte can say.
        self._kind = np.dtype(np.uint8 if bits < 256 else np.uint16)

    def nearest(
        self,
        queries: PackedWords,
        keep: int | None,
        radius: int,
        rows: Rows | None = None,
    ) -> list[Rows]:
        """See `FlatIndex.nearest`."""
        found = [_Best(keep, radius) for _ in queries]
        number = self._words.shape[1] if rows is None else len(rows)
        mixed = np.empty(BLOCK, dtype=np.uint64)
        count = np.empty(BLOCK, dtype=np.uint8)
        distances = np.empty(BLOCK, dtype=self._kind)
        for start in range(0, number, BLOCK):
            stop = min(start + BLOCK, number)
            size = stop - start
            chosen = slice(start, stop) if rows is None else rows[start:stop]
            block = self._words[:, chosen]
            for query, best in zip(queries, found, strict=True):
                away = distances[:size]
                for position, (word, wanted) in enumerate(zip(block, query, strict=True)):
                    np.bitwise_xor(word, wanted, out=mixed[:size])
                    if position == 0:
                        np.bitwise_count(mixed[:size], out=away)
                    else:
                        np.bitwise_count(mixed[:size], out=count[:size])
                        np.add(away, count[:size], out=away)
                if away.min() > best.worst:
                    continue
                near = np.flatnonzero(away <= best.bound(away))
                best.add(away[near], near + start if rows is None else rows[start:stop][near])
        return [best.keys() for best in found]


class _Best:
    """The best keys so far; later rows must be nearer than the last one kept."""

    def __init__(self, keep: int | None, radius: int) -> None:
        self._keep = keep
        self._parts: list[NDArray[np.int64]] = []
        self._size = 0
        self._new = 0
        self.worst = radius

    def bound(self, distances: NDArray[Any]) -> int:
        """The largest distance in a block that can be of use."""
        if self._size or self._keep is None or self._keep >= len(distances):
            return self.worst
        # In the first block every row would do: only the nearest `keep`, and their ties.
        return min(self.worst, int(np.searchsorted(np.bincount(distances).cumsum(), self._keep)))

    def add(self, distances: NDArray[Any], rows: Rows) -> None:
        self._parts.append(pack_keys(distances, rows))
        self._size += len(rows)
        self._new += len(rows)
        # Not for every row: with a large `keep` a selection costs more than it saves.
        if self._keep is not None and self._size >= self._keep and 2 * self._new >= self._keep:
            self._select(self._keep)

    def _select(self, keep: int) -> None:
        merged = np.concatenate(self._parts)
        if len(merged) > keep:
            merged = np.partition(merged, keep - 1)[:keep]
        self._parts, self._size, self._new = [merged], len(merged), 0
        self.worst = int(merged.max() >> ROW_BITS) - 1

    def keys(self) -> Rows:
        merged = np.concatenate([np.empty(0, dtype=np.int64), *self._parts])
        merged.sort()
        return merged[: self._keep]


class FaissIndex:
    """Brute force with FAISS's IndexBinaryFlat.

    FAISS may return any of the rows that tie for the last place. So more rows than wanted are
    asked for; where the last tie reaches the end of these, all rows within its distance are.

    The codes are copied. Filtered searches are left to NumPy.
    """

    name = "faiss"

    # Where a search by heap costs more than NumPy's.
    MOST = 2_000

    def __init__(self, words: PackedWords, bits: int) -> None:
        """Copy codes, uint64 [W, N].

        Raises:
            MissingExtra: FAISS is not installed.
        """
        try:
            with warnings.catch_warnings():
                # SWIG's types lack a module's name, which Python 3.12 and later deprecate.
                warnings.simplefilter("ignore", DeprecationWarning)
                import faiss
        except ImportError as error:
            raise MissingExtra(
                "FAISS is not installed: pip install faiss-cpu, or search without it."
            ) from error
        self._flat = faiss.IndexBinaryFlat(64 * len(words))
        for start in range(0, words.shape[1], BLOCK):
            self._flat.add(_row_bytes(words[:, start : start + BLOCK].T))
        self._numpy = NumPyIndex(words, bits)

    def nearest(
        self,
        queries: PackedWords,
        keep: int | None,
        radius: int,
        rows: Rows | None = None,
    ) -> list[Rows]:
        """See `FlatIndex.nearest`."""
        total = int(self._flat.ntotal)
        if rows is not None or (keep is not None and min(keep, total) > self.MOST):
            return self._numpy.nearest(queries, keep, radius, rows)
        if not len(queries) or not total:
            return [np.empty(0, dtype=np.int64) for _ in queries]
        asked = _row_bytes(queries)
        if keep is None:
            return self._within(asked, np.full(len(queries), radius))
        more = min(2 * keep + 32, total)
        distances, found = self._flat.search(asked, more)
        last = distances[:, min(keep, total) - 1]
        keys = np.sort(pack_keys(distances, found), axis=1)
        answers = [row[: int(np.sum(row >> ROW_BITS <= radius))][:keep] for row in keys]
        # The tie goes on beyond what was asked for, and is of interest.
        open_ended = np.flatnonzero((more < total) & (distances[:, -1] == last) & (last <= radius))
        if len(open_ended):
            whole = self._within(asked[open_ended], last[open_ended])
            for query, complete in zip(open_ended, whole, strict=True):
                answers[query] = complete[:keep]
        return answers

    def _within(self, asked: NDArray[np.uint8], radii: NDArray[Any]) -> list[Rows]:
        """All keys within a radius each."""
        answers = []
        for query, radius in zip(asked, radii, strict=True):
            # FAISS's radius is the first distance that is too large.
            _, distances, found = self._flat.range_search(query[None, :], int(radius) + 1)
            answers.append(np.sort(pack_keys(distances, found)))
        return answers


def _row_bytes(rows: PackedWords) -> NDArray[np.uint8]:
    """Codes uint64 [N, W] as bytes uint8 [N, 8 W]."""
    return np.ascontiguousarray(rows).view(np.uint8)
