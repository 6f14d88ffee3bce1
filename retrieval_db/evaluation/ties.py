"""Rankings as their ties: how many images lie at each distance from a query, and how many of
them are relevant. All that tie-aware metrics need, and small: L + 1 numbers a query."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..codes import check_packed


@dataclass(frozen=True)
class Ties:
    """The rankings of Q queries, nearest first.

    Attributes:
        size: n, the items of each tie, int64 [Q, G]; a tie may be empty.
        relevant: r, the relevant ones among them, int64 [Q, G].
    """

    size: NDArray[np.int64]
    relevant: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.size.ndim != 2 or self.size.shape != self.relevant.shape:
            raise ValueError(
                f"expected two arrays [Q, G], not {self.size.shape} and {self.relevant.shape}"
            )

    def __len__(self) -> int:
        return len(self.size)

    @classmethod
    def of(cls, distances: ArrayLike, relevant: ArrayLike) -> Ties:
        """One query, from its distances [N] to all items, and which are relevant, bool [N].

        Raises:
            ValueError: not two arrays [N], or a distance is NaN.
        """
        far, good = np.asarray(distances), np.asarray(relevant, dtype=bool)
        if far.ndim != 1 or far.shape != good.shape:
            raise ValueError(f"expected two arrays [N], not {far.shape} and {good.shape}")
        if far.dtype.kind == "f" and np.isnan(far).any():
            raise ValueError("a distance is NaN")
        levels, level = np.unique(far, return_inverse=True)
        size = np.bincount(level, minlength=len(levels))
        found = np.bincount(level[good], minlength=len(levels))
        return cls(size[None, :], found[None, :])

    @classmethod
    def stacked(cls, parts: Iterable[Ties]) -> Ties:
        """The queries of several, which must have the same levels."""
        each = list(parts)
        return cls(
            np.concatenate([part.size for part in each]),
            np.concatenate([part.relevant for part in each]),
        )

    @property
    def total(self) -> NDArray[np.int64]:
        """N, how many items are ranked for each query, int64 [Q]."""
        return np.asarray(self.size.sum(axis=1), dtype=np.int64)

    @property
    def total_relevant(self) -> NDArray[np.int64]:
        """How many of them are relevant, int64 [Q]."""
        return np.asarray(self.relevant.sum(axis=1), dtype=np.int64)


def by_label(
    queries: NDArray[np.uint8],
    database: NDArray[np.uint8],
    bits: int,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    left_out: Sequence[NDArray[np.int64]] | None = None,
    progress: Callable[[int], None] = lambda queries: None,
) -> Ties:
    """Rank a database by Hamming distance; the images of the query's label are relevant.

    Ten thousand queries over 50,000 codes of 64 bits take some seconds on one core.

    Args:
        queries: packed codes, uint8 [Q, ceil(L/8)].
        database: packed codes, uint8 [N, ceil(L/8)].
        bits: L.
        query_labels, database_labels: [Q] and [N], numbers or texts; an empty text is no label.
        left_out: for each query the rows of the database that are not ranked, such as itself.
        progress: called with the number of queries since the last call.

    Returns:
        Ties with L + 1 levels: level d is Hamming distance d.
    """
    wanted, known = np.asarray(query_labels), np.asarray(database_labels)
    # Rows of one label stand together, so that the relevant ones are a slice.
    order = np.argsort(known, kind="stable")
    known = known[order]
    starts, ends = (np.searchsorted(known, wanted, side=side) for side in ("left", "right"))
    if wanted.dtype.kind == "U":
        ends = np.where(wanted == "", starts, ends)
    place = np.empty(len(order), dtype=np.int64)
    place[order] = np.arange(len(order))

    def count(row: int, distances: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
        size = np.bincount(distances, minlength=bits + 1)
        relevant = np.bincount(distances[starts[row] : ends[row]], minlength=bits + 1)
        if left_out is not None and len(left_out[row]):
            gone = place[left_out[row]]
            size -= np.bincount(distances[gone], minlength=bits + 1)
            alike = gone[(gone >= starts[row]) & (gone < ends[row])]
            relevant -= np.bincount(distances[alike], minlength=bits + 1)
        return size, relevant

    return _counted(queries, database[order], bits, count, progress)


def by_neighbours(
    queries: NDArray[np.uint8],
    database: NDArray[np.uint8],
    bits: int,
    neighbours: NDArray[np.int64],
    *,
    progress: Callable[[int], None] = lambda queries: None,
) -> Ties:
    """Rank a database by Hamming distance; relevant are given rows, such as the nearest ones
    by a float distance.

    Args:
        queries, database, bits, progress: as in `by_label`.
        neighbours: int64 [Q, k], rows of the database.

    Returns:
        As `by_label`.
    """

    def count(row: int, distances: NDArray[Any]) -> tuple[NDArray[np.int64], ...]:
        size = np.bincount(distances, minlength=bits + 1)
        return size, np.bincount(distances[neighbours[row]], minlength=bits + 1)

    return _counted(queries, database, bits, count, progress)


def nearest(
    queries: NDArray[np.floating], database: NDArray[np.floating], k: int
) -> NDArray[np.int64]:
    """Search exhaustively by cosine distance; equal distances by row.

    Args:
        queries: [Q, D]; rows need not have length 1.
        database: [N, D].
        k: how many rows for each query; N at most.

    Returns:
        int64 [Q, k], rows of the database, nearest first.
    """
    found = np.empty((len(queries), min(k, len(database))), dtype=np.int64)
    for row, distances in enumerate(cosine_distances(queries, database)):
        found[row] = np.argsort(distances, kind="stable")[: found.shape[1]]
    return found


def cosine_distances(
    queries: NDArray[np.floating], database: NDArray[np.floating], block: int = 256
) -> Iterable[NDArray[np.float32]]:
    """The distances 1 − cosine from each query [Q, D] to all rows [N, D]: float32 [N] each.

    A row of zeros is at distance 1 from everything.
    """
    rows, columns = (_unit(array) for array in (queries, database))
    for start in range(0, len(rows), block):
        yield from 1 - rows[start : start + block] @ columns.T


def _unit(features: NDArray[np.floating]) -> NDArray[np.float32]:
    x = features.astype(np.float32)
    norms = np.sqrt(np.square(x).sum(axis=1, keepdims=True))
    return np.divide(x, np.where(norms > 0, norms, 1), dtype=np.float32)


def _counted(
    queries: NDArray[np.uint8],
    database: NDArray[np.uint8],
    bits: int,
    count: Callable[[int, NDArray[Any]], tuple[NDArray[np.int64], ...]],
    progress: Callable[[int], None],
) -> Ties:
    """One query at a time, so that its distances stay in the processor's cache."""
    rows = _wide(check_packed(queries, bits))
    columns = np.ascontiguousarray(_wide(check_packed(database, bits)).T)
    size = np.empty((len(rows), bits + 1), dtype=np.int64)
    relevant = np.empty_like(size)
    for number, query in enumerate(rows):
        distances = np.zeros(len(database), dtype=np.uint8 if bits < 256 else np.uint16)
        for words, word in zip(columns, query, strict=True):
            np.add(distances, np.bitwise_count(words ^ word), out=distances)
        size[number], relevant[number] = count(number, distances)
        progress(1)
    return Ties(size, relevant)


def _wide(packed: NDArray[np.uint8]) -> NDArray[np.unsignedinteger]:
    """Packed codes [N, B] as few wide integers [N, W]: those are faster to compare."""
    size = packed.shape[1]
    width = min(8, 1 << (size - 1).bit_length())
    padded = np.zeros((len(packed), -(-size // width) * width), dtype=np.uint8)
    padded[:, :size] = packed
    wide: NDArray[np.unsignedinteger] = padded.view(f"u{width}")
    return wide
