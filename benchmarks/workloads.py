"""Codes to search in, and queries for them; every draw is seeded."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from benchmarks import study

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
