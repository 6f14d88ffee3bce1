"""Many queries in one call: arrays in, arrays out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from .. import arguments, codes
from ..database import Connection, translated
from ..encoders import StoredEncoder
from ..errors import UsageError
from ..sql import queries
from .query import Query, check_comparable, checked_bounds, vector_text
from .single import MOST_CANDIDATES, Metric, bounded, choose_stage

SQL = queries("search")

# Queries of one statement: enough to hide its cost, few enough to answer a Ctrl-C.
AT_ONCE = 256

# Bytes of an array of the answers, beyond which it is not filled up to k columns.
ROOM = 1 << 30

# A key is distance << 54 | id.
ID_BITS = 54

NONE = -1


@dataclass(frozen=True, eq=False)
class BatchResult:
    """The answers to Q queries; rows are in the order of the queries.

    Attributes:
        ids: int64 [Q, K], nearest first, ties by id; -1 where there are fewer.
        distances: int32 [Q, K], in bits; -1 where there are fewer.
        exact: bool [Q], as in `SearchResult`.
        guaranteed_radius: int32 [Q], as in `SearchResult`.
        feature_distances: float64 [Q, K], NaN where there are fewer, or an image has no feature;
            None in the coarse stage.
        pool_size: int32 [Q], rows that the fine stage ranked; None in the coarse stage.
        tie_whole: bool [Q], whether the pool holds the whole last tie; None in the coarse stage.
    """

    ids: NDArray[np.int64]
    distances: NDArray[np.int32]
    exact: NDArray[np.bool_]
    guaranteed_radius: NDArray[np.int32]
    feature_distances: NDArray[np.float64] | None = None
    pool_size: NDArray[np.int32] | None = None
    tie_whole: NDArray[np.bool_] | None = None


def search_batch(
    connection: Connection,
    encoder: StoredEncoder,
    packed: NDArray[np.uint8],
    *,
    features: NDArray[np.floating] | None = None,
    k: int | None = 10,
    radius: int | None = None,
    labels: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    pool: int = 200,
    pool_max: int | None = None,
    metric: Metric = "cosine",
    max_candidates: int | None = None,
) -> BatchResult:
    """Find the images nearest to each of many codes.

    Args:
        packed: uint8 [Q, ceil(L/8)], the queries' codes.
        features: [Q, D], the queries' features; with them the fine stage ranks each pool.
        k, radius, labels, metadata, max_candidates: as in `search.search`, for each query.
        pool, pool_max, metric: of the fine stage, as in `search.search`.

    Returns:
        Arrays with K columns: `k`, or the longest answer's length if `k` is None.

    Raises:
        UsageError: neither `k` nor `radius`, or impossible values; or k columns, most of them
            empty, would take more than a gibibyte.
        InvalidCode, WrongWidth: not packed codes of the encoder's width, or features of
            another dimension.
        MissingExtension: features without pgvector.
    """
    k, radius = checked_bounds(k, radius, "coarse" if features is None else "fine")
    arguments.one_of("metric", metric, get_args(Metric))
    words = codes.to_words(packed, encoder.bits)
    given: dict[str, Any] = {
        "encoder": encoder.name,
        "k": bounded("k", k),
        "radius": bounded("radius", radius),
        "labels": arguments.texts("labels", labels),
        "metadata": None if metadata is None else Jsonb(dict(metadata)),
        "max_candidates": bounded("max_candidates", max_candidates, MOST_CANDIDATES),
    }
    parts: list[dict[str, Any]] = []
    for start in range(0, len(words), AT_ONCE):
        some = words[start : start + AT_ONCE]
        parts.append({f"q{word + 1}": some[:, word].tolist() for word in range(codes.WORDS)})
    if features is None:
        return _coarse(connection, [part | given for part in parts], k)
    if len(features) != len(words):
        raise UsageError(f"There are {len(words)} codes, but {len(features)} features.")
    for feature in features[:1]:
        query = Query((0, 0, 0, 0), feature)
        check_comparable(encoder, query)
        choose_stage(connection, encoder, query, "fine")
    texts = list(map(vector_text, features))
    for number, part in enumerate(parts):
        part["features"] = texts[number * AT_ONCE : (number + 1) * AT_ONCE]
    given |= {
        "pool": bounded("pool", pool),
        "pool_max": bounded("pool_max", pool_max),
        "metric": metric,
    }
    return _fine(connection, [part | given for part in parts], k)


def columns(k: int | None, queries: int, longest: int) -> int:
    """Columns of the arrays of answers.

    Raises:
        UsageError: k of them would take more than a gibibyte, most of it empty.
    """
    if k is None:
        return longest
    if k > 2 * longest and 8 * k * queries > ROOM:
        raise UsageError(
            f"{queries} x {k} answers take {8 * k * queries / 2**30:,.0f} GiB, and the longest "
            f"has {longest}: give a smaller k, or k=None with a radius."
        )
    return k


def _coarse(connection: Connection, parts: list[dict[str, Any]], k: int | None) -> BatchResult:
    rows: list[tuple[list[int], bool, int]] = []
    with translated(connection):
        for part in parts:
            rows += connection.execute(SQL["batch"], part, binary=True).fetchall()
    width = columns(k, len(rows), max((len(row[0]) for row in rows), default=0))
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


def _fine(connection: Connection, parts: list[dict[str, Any]], k: int | None) -> BatchResult:
    rows: list[tuple[Any, ...]] = []
    with translated(connection):
        for part in parts:
            rows += connection.execute(SQL["fine_batch"], part, binary=True).fetchall()
    width = columns(k, len(rows), max((len(row[0] or ()) for row in rows), default=0))
    result = BatchResult(
        ids=np.full((len(rows), width), NONE, dtype=np.int64),
        distances=np.full((len(rows), width), NONE, dtype=np.int32),
        exact=np.array([row[3] for row in rows], dtype=np.bool_),
        guaranteed_radius=np.array([row[4] for row in rows], dtype=np.int32),
        feature_distances=np.full((len(rows), width), np.nan),
        pool_size=np.array([row[5] for row in rows], dtype=np.int32),
        tie_whole=np.array([row[6] for row in rows], dtype=np.bool_),
    )
    assert result.feature_distances is not None
    for number, (ids, distances, away, *_) in enumerate(rows):
        result.ids[number, : len(ids)] = ids
        result.distances[number, : len(ids)] = distances
        result.feature_distances[number, : len(ids)] = away
    return result
