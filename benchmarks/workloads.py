"""Codes to search in, and queries for them; every draw is seeded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db import codes

LATENT = 24
CENTRES = 2_000
SPREAD = 0.5
BLOCK = 200_000

Codes = NDArray[np.uint8]


def clustered(rows: int, queries: int, bits: int = 128, seed: int = 0) -> tuple[Codes, Codes]:
    """Signs of random projections of clustered Gaussian points, and fresh ones as queries.

    Returns:
        Packed codes uint8 [rows, bits/8] and uint8 [queries, bits/8].
    """
    random = np.random.default_rng(seed)
    centres = random.standard_normal((CENTRES, LATENT), dtype=np.float32)
    projection = random.standard_normal((LATENT, bits), dtype=np.float32)

    def draw(count: int) -> Iterator[Codes]:
        for start in range(0, count, BLOCK):
            size = min(BLOCK, count - start)
            noise = random.standard_normal((size, LATENT), dtype=np.float32) * SPREAD
            points = centres[random.integers(0, CENTRES, size)] + noise
            yield np.packbits(points @ projection > 0, axis=1)

    return np.concatenate(list(draw(rows))), np.concatenate(list(draw(queries)))


def flipped(rows: int, queries: int, bits: int, most: int, seed: int = 0) -> tuple[Codes, Codes]:
    """Uniform codes; queries are some of them with 0 to `most` bits flipped."""
    random = np.random.default_rng(seed)
    database = random.integers(0, 256, (rows, bits // 8), dtype=np.uint8)
    asked = np.unpackbits(database[random.integers(0, rows, queries)], axis=1)
    for query, count in zip(asked, random.integers(0, most + 1, queries), strict=True):
        query[random.permutation(bits)[:count]] ^= 1
    return database, np.packbits(asked, axis=1)


def sun397(queries: int, seed: int = 0) -> tuple[Codes, NDArray[np.int64]]:
    """The real 128-bit codes of SUN397, uint8 [108754, 16], and seeded rows as queries."""
    words = np.load(study.data_dir() / "codes" / "sun397_dplm128.npy")
    packed = np.ascontiguousarray(words.astype(">u4")).view(np.uint8).reshape(len(words), 16)
    rows = np.random.default_rng(seed).choice(len(packed), queries, replace=False)
    return packed, rows


def ucf101(queries: int) -> tuple[Codes, Codes]:
    """The real 64-bit codes of UCF101: uint8 [9537, 8], and the first of its own query codes."""
    with np.load(study.data_dir() / "codes" / "ucf101" / "ucf101_csq64.npz") as file:
        return codes.binarize(file["database"]), codes.binarize(file["query"][:queries])


@dataclass(frozen=True)
class Workload:
    """Codes to search in, and what to look for.

    Attributes:
        name: of the workload.
        bits: code length L.
        packed: uint8 [N, L/8], the database.
        asked: uint8 [Q, L/8], the queries.
        own: int64 [Q], the database row that each query is, to be left out; None for fresh ones.
    """

    name: str
    bits: int
    packed: Codes
    asked: Codes
    own: NDArray[np.int64] | None = None

    def halves(self) -> tuple[Workload, Workload]:
        """The same codes with the first and with the second half of the queries."""
        middle = (len(self.asked) + 1) // 2
        first, second = (
            replace(self, asked=self.asked[part], own=None if self.own is None else self.own[part])
            for part in (slice(middle), slice(middle, None))
        )
        return first, second


NAMES = ("clustered", "flipped128", "flipped256", "sun397", "ucf101")


def draw(name: str, rows: int, queries: int, seed: int) -> Workload:
    """A workload by its name; the real codes have a size of their own."""
    match name:
        case "clustered":
            return Workload(name, 128, *clustered(rows, queries, seed=seed))
        case "flipped128":
            return Workload(name, 128, *flipped(rows, queries, 128, 12, seed))
        case "flipped256":
            return Workload(name, 256, *flipped(rows, queries, 256, 31, seed))
        case "sun397":
            packed, own = sun397(queries, seed)
            return Workload(name, 128, packed, packed[own], own)
        case "ucf101":
            return Workload(name, 64, *ucf101(queries))
    raise ValueError(f"There is no workload {name}.")
