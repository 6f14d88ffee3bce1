"""Nearest neighbours of a hash code, from coarse to fine, with a certificate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, SupportsIndex, get_args

from psycopg.types.json import Jsonb

from .. import arguments
from ..database import Connection, translated
from ..encoders import StoredEncoder, takes_features
from ..errors import MissingExtension, UsageError
from ..sql import queries
from .query import Query, check_comparable, checked_bounds, vector_text

SQL = queries("search")

Stage = Literal["auto", "coarse", "fine"]
Metric = Literal["cosine", "l2"]
SearchSource = Literal["database", "memory"]

# One less than the largest integer: the fine stage asks for one row more than its pool.
MOST = 2**31 - 2
MOST_CANDIDATES = 2**63 - 1


@dataclass(frozen=True)
class Hit:
    """One image of an answer.

    Attributes:
        rank: from 1.
        image_id: its key in `images`.
        path: as stored.
        label: or None.
        distance: Hamming distance to the query, in bits.
        feature_distance: cosine or L2 distance of the features; None in the coarse stage, for
            an image without a feature, and where a cosine is not defined (a feature of zeros).
    """

    rank: int
    image_id: int
    path: str
    label: str | None
    distance: int
    feature_distance: float | None = None


@dataclass(frozen=True)
class SearchResult:
    """An answer and what is guaranteed about it.

    Attributes:
        hits: nearest first, ties by id.
        encoder: whose codes were searched.
        stage: `coarse` (ranked by Hamming distance) or `fine` (by feature distance).
        exact: the coarse answer (in the fine stage: the pool) equals the full scan's.
        guaranteed_radius: every row within this Hamming distance was examined.
        milliseconds: from sending the statement to having the rows.
        plan: how the rows were found, such as `scan` or `buckets`; None in the fine stage.
        shells, probes, candidates: what the search cost; None in the fine stage.
        pool_size: rows that the fine stage ranked; None in the coarse stage.
        tie_whole: whether the pool holds the whole last tie; None in the coarse stage.
        source: where the codes were compared: in the `database`, or in `memory`.
    """

    hits: tuple[Hit, ...]
    encoder: str
    stage: Literal["coarse", "fine"]
    exact: bool
    guaranteed_radius: int
    milliseconds: float
    plan: str | None = None
    shells: int | None = None
    probes: int | None = None
    candidates: int | None = None
    pool_size: int | None = None
    tie_whole: bool | None = None
    source: SearchSource = "database"

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


def search(
    connection: Connection,
    encoder: StoredEncoder,
    query: Query,
    *,
    k: int | None = 10,
    radius: int | None = None,
    labels: Sequence[str] | None = None,
    metadata: Mapping[str, Any] | None = None,
    stage: Stage = "auto",
    pool: int = 200,
    pool_max: int | None = None,
    metric: Metric = "cosine",
    max_candidates: int | None = None,
    max_ms: float | None = None,
) -> SearchResult:
    """Find the images whose codes are nearest to the query's.

    Args:
        connection: to a migrated database.
        encoder: whose codes are searched.
        query: the code, and its feature for the fine stage.
        k: how many at most; None for all within `radius`, or the whole pool of the fine stage.
        radius: largest Hamming distance, in bits.
        labels: only images with one of these labels; with none of them, no image.
        metadata: only images whose metadata contain this (`jsonb @>`).
        stage: `coarse` ranks by Hamming distance, `fine` ranks the `pool` nearest codes by
            feature distance, those of images without a feature last; `auto` is fine where the
            query has a feature and any image has one.
        pool, pool_max: size of the pool, or `k` if that is more; and the most that it holds,
            also where the last tie makes it grow (default ten times as many).
        metric: of the fine stage.
        max_candidates, max_ms: a budget; when it is spent, the best answer so far comes back
            with `exact` false.

    Raises:
        UsageError: neither `k` nor `radius`, or impossible values.
        WrongWidth: the code does not fit the encoder, or the feature its dimension.
        MissingExtension: the fine stage without pgvector.
    """
    check_comparable(encoder, query)
    arguments.one_of("metric", metric, get_args(Metric))
    stage = choose_stage(connection, encoder, query, stage)
    k, radius = checked_bounds(k, radius, stage)
    parameters: dict[str, Any] = {
        "encoder": encoder.name,
        **{f"q{number}": word for number, word in enumerate(query.words, start=1)},
        "k": bounded("k", k),
        "radius": bounded("radius", radius),
        "labels": arguments.texts("labels", labels),
        "metadata": None if metadata is None else Jsonb(dict(metadata)),
        "max_candidates": bounded("max_candidates", max_candidates, MOST_CANDIDATES),
        # PostgreSQL's intervals have an end.
        "max_ms": None if max_ms is None else min(max_ms, MOST),
    }
    if stage == "fine":
        assert query.feature is not None
        parameters |= {
            "feature": vector_text(query.feature),
            "pool": bounded("pool", pool),
            "pool_max": bounded("pool_max", pool_max),
            "metric": metric,
        }
        return _fine(connection, encoder, parameters)
    return _coarse(connection, encoder, parameters)


def bounded(name: str, number: SupportsIndex | None, most: int = MOST) -> int | None:
    """A number of images or bits as the SQL functions take it: beyond, nothing changes.

    Raises:
        UsageError: it is no whole number.
    """
    value = arguments.whole(name, number)
    return None if value is None else max(-most, min(value, most))


def choose_stage(
    connection: Connection, encoder: StoredEncoder, query: Query, stage: Stage
) -> Literal["coarse", "fine"]:
    """The stage that `auto` means here, and whether `fine` can be had.

    Raises:
        MissingExtension: `fine` without pgvector.
        UsageError: `fine` without features, or no such stage.
    """
    arguments.one_of("stage", stage, get_args(Stage))
    if stage == "coarse" or (stage == "auto" and query.feature is None):
        return "coarse"
    there = filled = takes_features(connection)
    if there:
        with translated(connection):
            row = connection.execute(SQL["has_feature"], [encoder.id]).fetchone()
        filled = row is not None and bool(row[0])
    if stage == "auto":
        return "fine" if filled else "coarse"
    if not there:
        raise MissingExtension(
            "The fine stage needs pgvector 0.7 or later in the database: install it there and "
            "run `retrieval-db migrate` with the same --database. `--stage coarse` works without."
        )
    if query.feature is None or not filled:
        lacking = "query has no feature" if filled else "images have no features"
        raise UsageError(f"The {lacking}, so there is no fine stage. Use `--stage coarse`.")
    return "fine"


def _coarse(
    connection: Connection, encoder: StoredEncoder, parameters: dict[str, Any]
) -> SearchResult:
    started = time.perf_counter()
    with translated(connection):
        rows = connection.execute(SQL["coarse"], parameters).fetchall()
    exact, guaranteed, plan, shells, probes, candidates = rows[0][:6]
    return SearchResult(
        hits=tuple(Hit(*row[6:]) for row in rows if row[6] is not None),
        encoder=encoder.name,
        stage="coarse",
        exact=exact,
        guaranteed_radius=guaranteed,
        milliseconds=(time.perf_counter() - started) * 1000,
        plan=plan,
        shells=shells,
        probes=probes,
        candidates=candidates,
    )


def _fine(
    connection: Connection, encoder: StoredEncoder, parameters: dict[str, Any]
) -> SearchResult:
    started = time.perf_counter()
    with translated(connection):
        rows = connection.execute(SQL["fine"], parameters).fetchall()
    milliseconds = (time.perf_counter() - started) * 1000
    if not rows:
        # Nothing to rank: the coarse stage says how far that is certain.
        empty = _coarse(connection, encoder, parameters | {"k": parameters["pool"]})
        return SearchResult(
            (),
            encoder.name,
            "fine",
            empty.exact,
            empty.guaranteed_radius,
            milliseconds,
            pool_size=0,
            tie_whole=True,
        )
    exact, guaranteed, pool_size, tie_whole = rows[0][6:]
    return SearchResult(
        hits=tuple(Hit(*row[:6]) for row in rows),
        encoder=encoder.name,
        stage="fine",
        exact=exact,
        guaranteed_radius=guaranteed,
        milliseconds=milliseconds,
        pool_size=pool_size,
        tie_whole=tie_whole,
    )
