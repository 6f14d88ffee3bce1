"""Many queries in one call: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from . import codes
from .database import Connection, translated
from .encoders import StoredEncoder
from .sql import queries

SQL = queries("search")

# Queries of one statement: enough to hide its cost, few enough to answer a Ctrl-C.
AT_ONCE = 256

# A key is distance << 54 | id.
ID_BITS = 54

NONE = -1


@dataclass(frozen=True)
class BatchResult:
    """The answers to Q queries; rows are in the order of the queries.

    Attributes:
        ids: int64 [Q, K], nearest first, ties by id; -1 where there are fewer.
        distances: int32 [Q, K], in bits; -1 where there are fewer.
        exact: bool [Q], as in `SearchResult`.
        guaranteed_radius: int32 [Q], as in `SearchResult`.
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.int32]
    exact: NDArray[np.bool_]
    guaranteed_radius: NDArray[np.int32]


def search_batch(
    connection: Connection,
    encoder: StoredEncoder,
    packed: NDArray[np.uint8],
    *,
    k: int | None = 10,
    radius: int | None = None,
    labels: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    max_candidates: int | None = None,
) -> BatchResult:
    """Find the images nearest to each of many codes.

    Args:
        packed: uint8 [Q, ceil(L/8)], the queries' codes.
        k, radius, labels, metadata, max_candidates: as in `search.search`, for each query.

    Returns:
        Arrays with K columns: `k`, or the longest answer's length if `k` is None.

    Raises:
        UsageError: neither `k` nor `radius`, or impossible values.
        InvalidCode, WrongWidth: not packed codes of the encoder's width.
    """
    words = codes.to_words(packed, encoder.bits)
    rows: list[tuple[list[int], bool, int]] = []
    with translated(connection):
        for start in range(0, len(words), AT_ONCE):
            part = words[start : start + AT_ONCE]
            given = {f"q{word + 1}": part[:, word].tolist() for word in range(codes.WORDS)} | {
                "encoder": encoder.name,
                "k": k,
                "radius": radius,
                "labels": list(labels) if labels else None,
                "metadata": Jsonb(dict(metadata)) if metadata else None,
                "max_candidates": max_candidates,
            }
            rows += connection.execute(SQL["batch"], given, binary=True).fetchall()
    width = k if k is not None else max((len(row[0]) for row in rows), default=0)
    keys = np.full((len(rows), width), NONE, dtype=np.int64)
    for filled, (found, _, _) in zip(keys, rows, strict=True):
        filled[: len(found)] = found
    there = keys != NONE
    return BatchResult(
        ids=np.where(there, keys & ((1 << ID_BITS) - 1), NONE),
        distances=np.where(there, keys >> ID_BITS, NONE).astype(np.int32),
        exact=np.array([row[1] for row in rows], dtype=np.bool_),
        guaranteed_radius=np.array([row[2] for row in rows], dtype=np.int32),
    )
