"""Nearest neighbours of a hash code, from coarse to fine, with a certificate."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from .codes import Words
from .database import Connection, translated
from .encoders import StoredEncoder
from .errors import MissingExtension, UnknownImage, UsageError, WrongWidth
from .sql import queries

SQL = queries("search")

Stage = Literal["auto", "coarse", "fine"]
Metric = Literal["cosine", "l2"]
SearchSource = Literal["database", "memory"]


@dataclass(frozen=True)
class Hit:
    """One image of an answer.

    Attributes:
        rank: from 1.
        image_id: its key in `images`.
        path: as stored.
        label: or None.
        distance: Hamming distance to the query, in bits.
        feature_distance: cosine or L2 distance of the features; None in the coarse stage.
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


@dataclass(frozen=True)
class Query:
    """What is looked for: a code, and for the fine stage a feature.

    Attributes:
        words: the four words of the code.
        feature: float32 [D], or None.
    """

    words: Words
    feature: NDArray[np.float32] | None = None


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
        k: how many at most; None for all within `radius`.
        radius: largest Hamming distance, in bits.
        labels: only images with one of these labels.
        metadata: only images whose metadata contain this (`jsonb @>`).
        stage: `coarse` ranks by Hamming distance, `fine` ranks the `pool` nearest codes by
            feature distance; `auto` is fine where the query and the images have features.
        pool, pool_max: size of the pool, and its limit when the last tie makes it grow
            (default 10 × pool).
        metric: of the fine stage.
        max_candidates, max_ms: a budget; when it is spent, the best answer so far comes back
            with `exact` false.

    Raises:
        UsageError: neither `k` nor `radius`, or impossible values.
        WrongWidth: the code does not fit the encoder, or the feature its dimension.
        MissingExtension: the fine stage without pgvector.
    """
    check_feature(encoder, query)
    stage = choose_stage(connection, encoder, query, stage)
    parameters: dict[str, Any] = {
        "encoder": encoder.name,
        **{f"q{number}": word for number, word in enumerate(query.words, start=1)},
        "k": k,
        "radius": radius,
        "labels": list(labels) if labels else None,
        "metadata": Jsonb(dict(metadata)) if metadata else None,
        "max_candidates": max_candidates,
        "max_ms": max_ms,
    }
    if stage == "fine":
        assert query.feature is not None
        parameters |= {
            "feature": vector_text(query),
            "pool": pool,
            "pool_max": pool_max,
            "metric": metric,
        }
        return _fine(connection, encoder, parameters)
    return _coarse(connection, encoder, parameters)


def vector_text(query: Query) -> str:
    """The query's feature as pgvector reads it."""
    assert query.feature is not None
    return "[" + ",".join(map(repr, query.feature.astype(float).tolist())) + "]"


def check_feature(encoder: StoredEncoder, query: Query) -> None:
    """Refuse a query whose feature cannot be compared with the encoder's.

    Raises:
        WrongWidth: it has another dimension.
    """
    if query.feature is not None and encoder.feature_dim not in (None, len(query.feature)):
        raise WrongWidth(
            f"Features of {encoder.name!r} have {encoder.feature_dim} dimensions; "
            f"the query's has {len(query.feature)}."
        )


def choose_stage(
    connection: Connection, encoder: StoredEncoder, query: Query, stage: Stage
) -> Literal["coarse", "fine"]:
    """The stage that `auto` means here, and whether `fine` can be had.

    Raises:
        MissingExtension: `fine` without pgvector.
        UsageError: `fine` without features.
    """
    if stage == "coarse" or (stage == "auto" and query.feature is None):
        return "coarse"
    table = connection.execute("SELECT to_regclass('image_features')").fetchone()
    there = table is not None and table[0] is not None
    if there:
        with translated(connection):
            row = connection.execute(SQL["has_feature"], [encoder.id]).fetchone()
        filled = row is not None and bool(row[0])
    if stage == "auto":
        return "fine" if there and filled else "coarse"
    if not there:
        raise MissingExtension(
            "The fine stage needs pgvector 0.7 or later in the database: install it there and "
            "run `retrieval-db migrate`. `--stage coarse` works without."
        )
    if query.feature is None or not filled:
        lacking = "query has no feature" if filled else "images have no features"
        raise UsageError(f"The {lacking}, so there is no fine stage. Use `--stage coarse`.")
    return "fine"


def query_by_id(connection: Connection, image_id: int) -> tuple[str, Query]:
    """The encoder's name, and the code and feature, of a stored image.

    Raises:
        UnknownImage: there is no such image.
    """
    row = connection.execute(SQL["image_by_id"], [image_id]).fetchone()
    if row is None:
        raise UnknownImage(f"There is no image with the id {image_id}.")
    return str(row[1]), _stored_query(connection, row)


def query_by_path(connection: Connection, encoder: StoredEncoder, path: str) -> Query:
    """The code and feature of a stored image.

    Raises:
        UnknownImage: there is no such image under this encoder.
    """
    row = connection.execute(SQL["image_by_path"], [encoder.id, path]).fetchone()
    if row is None:
        raise UnknownImage(
            f"No image of the encoder {encoder.name!r} has the path {path!r}. Paths are stored "
            + (f"relative to {encoder.root}." if encoder.root else "absolute.")
        )
    return _stored_query(connection, row)


def _stored_query(connection: Connection, row: tuple[Any, ...]) -> Query:
    table = connection.execute("SELECT to_regclass('image_features')").fetchone()
    feature = None
    if table is not None and table[0] is not None:
        found = connection.execute(SQL["feature_of"], [row[0]]).fetchone()
        feature = None if found is None else np.array(found[0], dtype=np.float32)
    return Query((row[2], row[3], row[4], row[5]), feature)


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
