"""Coarse, fine and exhaustive search side by side: what a pool costs, and what it misses."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import search
from ..codes import WORDS
from ..database import Connection, translated
from ..encoders import StoredEncoder
from ..errors import UsageError
from ..search import Query, Stage
from ..sql import queries
from . import metrics, query_sets
from .query_sets import QuerySet
from .ties import Ties

SQL = queries("evaluation")

POOLS = (50, 100, 200, 400, 1000)
RECALLS = (10, 100)

# Times are of the ten nearest, over so many of the queries, after a few to warm up.
TIMED_K = 10
TIMED = 100
WARM_UP = 5


@dataclass(frozen=True)
class StageScore:
    """One way to search, scored; means over the queries.

    Attributes:
        stage: `coarse` ranks by Hamming distance, `fine` a pool of the nearest codes by feature
            distance, `exhaustive` everything by feature distance.
        pool: codes that were asked for; None but in the fine stage.
        pool_size_median, pool_size_p95: rows in the pool with its whole last tie.
        recall_at_10, recall_at_100: the share of the exhaustive search's first 10 and 100 that
            are among the first 10 and 100 of this one; ties of features by id, of codes in
            expectation.
        k: of mAP@k.
        mean_average_precision: by label, divided by min(k, all relevant images). What is not
            in a pool comes after it, by Hamming distance.
        milliseconds_median, milliseconds_p95: of a search for the ten nearest, as the client
            sees it.
    """

    stage: Literal["coarse", "fine", "exhaustive"]
    pool: int | None
    pool_size_median: float | None
    pool_size_p95: float | None
    recall_at_10: float
    recall_at_100: float
    k: int
    mean_average_precision: float
    milliseconds_median: float
    milliseconds_p95: float

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Asked:
    """One query, and what the exhaustive search answered."""

    query: Query
    label: str
    id: int | None
    digest: bytes | None
    own: frozenset[int]
    levels: Ties
    near: NDArray[np.int64]
    near_distances: NDArray[np.int64]
    near_relevant: NDArray[np.bool_]


def compare(
    connection: Connection,
    encoder: StoredEncoder,
    asked: QuerySet,
    *,
    k: int | None = 1000,
    pools: Sequence[int] = POOLS,
    progress: Callable[[int], None] = lambda queries: None,
) -> list[StageScore]:
    """Score the coarse stage, the fine stage with each pool, and the exhaustive float search.

    All three search the live table; the fine stage and the exhaustive search by cosine.

    Args:
        asked: queries with features.
        k: of mAP@k; None for the whole ranking.
        pools: how many of the nearest codes the fine stage ranks.
        progress: called with 1 after each query.

    Raises:
        UsageError: the queries, or the images, have no features.
        MissingExtension: the database has no pgvector.
    """
    if asked.features is None and encoder.config and encoder.feature_dim is None:
        raise UsageError(
            f"{encoder.name!r} has no features, so there is no fine stage to evaluate: index the "
            "images with an encoder that has, such as itq128."
        )
    if asked.features is None:
        raise UsageError(
            f"The queries, or the images of {encoder.name!r}, have no features, or only some have, "
            "so there is no fine stage to evaluate. `retrieval-db index` stores them where "
            "pgvector is."
        )
    probe = Query(_words(asked, 0), asked.features[0])
    search.choose_stage(connection, encoder, probe, "fine")
    levels = query_sets.table_ties(connection, encoder, asked)
    most = int(levels.total.max(initial=0))
    k = most if k is None else min(k, most)
    own = query_sets.own_rows(connection, encoder, asked)
    coarse: list[tuple[Ties, Ties]] = []
    fine: dict[int, list[tuple[Ties, list[float], int]]] = {pool: [] for pool in pools}
    exhaustive: list[Ties] = []
    prepared = []
    for row in range(len(asked)):
        one = Ties(levels.size[row : row + 1], levels.relevant[row : row + 1])
        query = _exhaustive(connection, encoder, asked, row, one, own[row], max(k, *RECALLS))
        prepared.append(query)
        coarse.append((one, _near_levels(query)))
        exhaustive.append(_ranked(query.near_relevant, np.empty(0, dtype=np.int64), one, False))
        for pool in pools:
            fine[pool].append(_fine(connection, encoder, query, pool))
        progress(1)
    scores = [_coarse_score(coarse, k, _timed(connection, encoder, prepared, "coarse"))]
    for pool in pools:
        times = _timed(connection, encoder, prepared, "fine", pool)
        scores.append(_fine_score(fine[pool], pool, k, times))
    scores.append(
        _score(
            "exhaustive", exhaustive, (1.0, 1.0), k, _timed_floats(connection, encoder, prepared)
        )
    )
    return scores


def _words(asked: QuerySet, row: int) -> tuple[int, int, int, int]:
    first, second, third, fourth = (int(asked.words[row, word]) for word in range(WORDS))
    return first, second, third, fourth


def _exhaustive(
    connection: Connection,
    encoder: StoredEncoder,
    asked: QuerySet,
    row: int,
    levels: Ties,
    own: frozenset[int],
    k: int,
) -> _Asked:
    assert asked.features is not None
    query = Query(_words(asked, row), asked.features[row])
    label, number, digest = asked.labels[row], asked.ids[row], asked.content_sha256[row]
    rows = _nearest(connection, encoder, query, number, digest, k)
    return _Asked(
        query,
        label,
        number,
        digest,
        own,
        levels,
        np.array([found[0] for found in rows], dtype=np.int64),
        np.array([found[2] for found in rows], dtype=np.int64),
        np.array([found[1] == label for found in rows], dtype=np.bool_),
    )


def _nearest(
    connection: Connection,
    encoder: StoredEncoder,
    query: Query,
    number: int | None,
    digest: bytes | None,
    k: int,
) -> list[tuple[Any, ...]]:
    assert query.feature is not None
    values = {f"q{place}": word for place, word in enumerate(query.words, start=1)} | {
        "encoder": encoder.id,
        "id": number,
        "hash": digest,
        "feature": search.vector_text(query.feature),
        "k": k,
    }
    with translated(connection):
        return connection.execute(SQL["nearest_features"], values).fetchall()


def _near_levels(query: _Asked) -> Ties:
    """For each recall@k: the Hamming distances of the exhaustive search's first k."""
    counts = [
        np.bincount(query.near_distances[:k], minlength=query.levels.size.shape[1]) for k in RECALLS
    ]
    return Ties(np.repeat(query.levels.size, len(RECALLS), axis=0), np.stack(counts))


def _ranked(
    relevant: NDArray[np.bool_], distances: NDArray[np.int64], levels: Ties, whole: bool
) -> Ties:
    """A ranked list, and after it what is not in it: by Hamming distance, or as one tie.

    Args:
        relevant: bool [M], in the order of the list.
        distances: int64 [M], the Hamming distances of these images.
        levels: the Hamming ranking of everything.
        whole: whether the rest is ranked by Hamming distance.
    """
    levels_count = levels.size.shape[1]
    size = levels.size[0] - np.bincount(distances, minlength=levels_count) if whole else None
    if size is not None:
        rest = levels.relevant[0] - np.bincount(distances[relevant], minlength=levels_count)
    else:
        size = np.array([int(levels.total[0]) - len(relevant)])
        rest = np.array([int(levels.total_relevant[0]) - int(relevant.sum())])
    return Ties(
        np.concatenate([np.ones(len(relevant), dtype=np.int64), size])[None, :],
        np.concatenate([relevant.astype(np.int64), rest])[None, :],
    )


def _fine(
    connection: Connection, encoder: StoredEncoder, query: _Asked, pool: int
) -> tuple[Ties, list[float], int]:
    """The ranking of a fine search, its recalls, and how large its pool was.

    Rows of the query's own content have its code, so they are the first of any pool; it is
    made so much larger, and they are left out.
    """
    found = search.search(
        connection, encoder, query.query, k=None, stage="fine", pool=pool + len(query.own)
    )
    hits = [hit for hit in found.hits if hit.image_id not in query.own]
    ids = np.array([hit.image_id for hit in hits], dtype=np.int64)
    recalls = []
    for k in RECALLS:
        wanted = query.near[:k]
        recalls.append(float(np.isin(wanted, ids[:k]).sum() / max(len(wanted), 1)))
    relevant = np.array([hit.label == query.label for hit in hits], dtype=np.bool_)
    distances = np.array([hit.distance for hit in hits], dtype=np.int64)
    return _ranked(relevant, distances, query.levels, True), recalls, len(hits)


def _coarse_score(
    rankings: Sequence[tuple[Ties, Ties]], k: int, times: Sequence[float]
) -> StageScore:
    recalls = np.array(
        [np.diagonal(metrics.recalls_at(near, list(RECALLS))) for _, near in rankings]
    ).mean(axis=0)
    first, second = recalls.tolist()
    return _score("coarse", [ranking for ranking, _ in rankings], (first, second), k, times)


def _fine_score(
    found: Sequence[tuple[Ties, list[float], int]], pool: int, k: int, times: Sequence[float]
) -> StageScore:
    first, second = np.array([recalls for _, recalls, _ in found]).mean(axis=0).tolist()
    sizes = [size for _, _, size in found]
    rankings = [ranking for ranking, _, _ in found]
    return _score("fine", rankings, (first, second), k, times, pool=pool, sizes=sizes)


def _score(
    stage: Literal["coarse", "fine", "exhaustive"],
    rankings: Sequence[Ties],
    recalls: tuple[float, float],
    k: int,
    times: Sequence[float],
    *,
    pool: int | None = None,
    sizes: Sequence[int] = (),
) -> StageScore:
    average = [metrics.average_precisions(ranking, k)[0] for ranking in rankings]
    return StageScore(
        stage=stage,
        pool=pool,
        pool_size_median=float(np.median(sizes)) if sizes else None,
        pool_size_p95=float(np.percentile(sizes, 95)) if sizes else None,
        recall_at_10=recalls[0],
        recall_at_100=recalls[1],
        k=k,
        mean_average_precision=metrics.mean(average),
        milliseconds_median=float(np.median(times)),
        milliseconds_p95=float(np.percentile(times, 95)),
    )


def _timed(
    connection: Connection,
    encoder: StoredEncoder,
    asked: Sequence[_Asked],
    stage: Stage,
    pool: int = 200,
) -> list[float]:
    """Milliseconds of searches for the ten nearest."""

    def once(one: _Asked) -> float:
        return search.search(
            connection, encoder, one.query, k=TIMED_K, stage=stage, pool=pool
        ).milliseconds

    for one in asked[:WARM_UP]:
        once(one)
    return [once(one) for one in asked[:TIMED]]


def _timed_floats(
    connection: Connection, encoder: StoredEncoder, asked: Sequence[_Asked]
) -> list[float]:
    found = []
    for one in [*asked[:WARM_UP], *asked[:TIMED]]:
        started = time.perf_counter()
        _nearest(connection, encoder, one.query, None, None, TIMED_K)
        found.append((time.perf_counter() - started) * 1000)
    return found[min(WARM_UP, len(asked)) :]
