"""Coarse, fine and exhaustive search, against the same three in NumPy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

from retrieval_db import codes, loading
from retrieval_db.database import Connection
from retrieval_db.encoders import StoredEncoder, find
from retrieval_db.errors import UsageError
from retrieval_db.evaluation import QuerySet, Ties, metrics, query_sets, stages
from retrieval_db.interchange import CodeSet, write_npz
from tests import command
from tests.example import code_set

BITS, ROWS, DIM = 16, 300, 12


def made(rows: int, seed: int) -> CodeSet:
    """Codes that are signs of projected features; labels that are clusters."""
    random = np.random.default_rng(seed)
    labels = random.integers(0, 5, rows)
    centres = np.random.default_rng(99).standard_normal((5, DIM))
    features = (centres[labels] + random.standard_normal((rows, DIM))).astype(np.float16)
    planes = np.random.default_rng(98).standard_normal((DIM, BITS))
    packed = np.packbits(features.astype(np.float64) @ planes > 0, axis=1)
    items = code_set(packed, BITS)
    return replace(items, labels=[f"class {label}" for label in labels], features=features)


@pytest.fixture
def filled(database_url: str) -> Iterator[tuple[Connection, StoredEncoder, CodeSet]]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        items = made(ROWS, 0)
        loading.load(connection, items)
        yield connection, find(connection, "example"), items


def expected(asked: CodeSet, items: CodeSet, pool: int, k: int) -> tuple[float, float, list[int]]:
    """recall@10, mAP@k and the pool sizes of a fine search, by definition."""
    assert asked.features is not None
    assert items.features is not None
    assert asked.labels is not None
    recalls, average, sizes = [], [], []
    for row, label in enumerate(asked.labels):
        far = codes.hamming_distances(asked.codes[row : row + 1], items.codes)[0]
        cosine = distances(asked.features[row], items.features)
        near = np.argsort(cosine, kind="stable")[:10]
        bound = np.sort(far)[pool - 1]
        inside = np.flatnonzero(far <= bound)
        order = inside[np.argsort(cosine[inside], kind="stable")]
        sizes.append(len(order))
        recalls.append(np.isin(near, order[:10]).mean())
        level = 1000.0 + far
        level[order] = np.arange(len(order))
        relevant = np.array(items.labels) == label
        average.append(metrics.average_precision(level, relevant, k))
    return float(np.mean(recalls)), float(np.mean(average)), sizes


def distances(query: NDArray[np.floating], features: NDArray[np.floating]) -> NDArray[np.float64]:
    x, y = query.astype(np.float64), features.astype(np.float64)
    cosine: NDArray[np.float64] = 1 - y @ x / np.linalg.norm(y, axis=1) / np.linalg.norm(x)
    return cosine


def test_every_stage_as_numpy_has_it(filled: tuple[Connection, StoredEncoder, CodeSet]) -> None:
    connection, encoder, items = filled
    asked = made(25, 1)
    steps: list[int] = []
    scores = stages.compare(
        connection, encoder, QuerySet.of(asked), k=50, pools=[10, 40], progress=steps.append
    )
    assert [(one.stage, one.pool) for one in scores] == [
        ("coarse", None),
        ("fine", 10),
        ("fine", 40),
        ("exhaustive", None),
    ]
    assert sum(steps) == 25
    for one in scores[1:3]:
        assert one.pool is not None
        recall, average, sizes = expected(asked, items, one.pool, 50)
        assert one.recall_at_10 == pytest.approx(recall)
        assert one.mean_average_precision == pytest.approx(average)
        assert one.pool_size_median == np.median(sizes)
        assert one.pool_size_p95 == pytest.approx(np.percentile(sizes, 95))
        assert one.k == 50
    assert scores[1].recall_at_10 < scores[2].recall_at_10 < 1
    exhaustive = scores[-1]
    assert (exhaustive.recall_at_10, exhaustive.recall_at_100) == (1, 1)
    assert asked.features is not None
    assert items.features is not None
    whole = [
        metrics.average_precision(
            distances(feature, items.features), np.array(items.labels) == label, 50
        )
        for feature, label in zip(asked.features, asked.labels or (), strict=True)
    ]
    assert exhaustive.mean_average_precision == pytest.approx(np.mean(whole))
    assert all(one.milliseconds_median > 0 for one in scores)


def test_the_coarse_stage_counts_its_ties_in_expectation(
    filled: tuple[Connection, StoredEncoder, CodeSet],
) -> None:
    connection, encoder, items = filled
    asked = made(12, 2)
    coarse = stages.compare(connection, encoder, QuerySet.of(asked), k=None, pools=[])[0]
    assert asked.features is not None
    assert items.features is not None
    recalls, average = [], []
    far = codes.hamming_distances(asked.codes, items.codes)
    for row, label in enumerate(asked.labels or ()):
        near = np.argsort(distances(asked.features[row], items.features), kind="stable")[:10]
        hit = np.zeros(ROWS, dtype=bool)
        hit[near] = True
        recalls.append(metrics.recalls_at(Ties.of(far[row], hit), 10)[0, 0])
        average.append(metrics.average_precision(far[row], np.array(items.labels) == label))
    assert coarse.recall_at_10 == pytest.approx(np.mean(recalls))
    assert coarse.mean_average_precision == pytest.approx(np.mean(average))
    assert coarse.k == ROWS


def test_rows_as_queries_leave_themselves_out(
    filled: tuple[Connection, StoredEncoder, CodeSet],
) -> None:
    connection, encoder, _ = filled
    asked = query_sets.drawn(connection, encoder, 20, seed=3)
    assert asked.features is not None
    scores = stages.compare(connection, encoder, asked, k=100, pools=[ROWS])
    fine, exhaustive = scores[1], scores[2]
    assert fine.pool_size_median == ROWS - 1
    assert fine.recall_at_10 == 1
    assert fine.mean_average_precision == pytest.approx(exhaustive.mean_average_precision)
    assert exhaustive.mean_average_precision < 1


def test_queries_of_a_file_of_which_some_have_features(
    filled: tuple[Connection, StoredEncoder, CodeSet], database_url: str, tmp_path: Path
) -> None:
    connection, encoder, _ = filled
    some = replace(made(3, 1), has_feature=np.array([False, True, True]))
    write_npz(tmp_path / "q.npz", some)
    options = ("--codes", tmp_path / "q.npz", "-e", "example", "-k", 5, "-d", database_url)
    found = json.loads(command.succeed("search", *options, "--json").out)
    assert [one["stage"] for one in found] == ["coarse", "fine", "fine"]
    assert {hit["feature_distance"] for hit in found[0]["hits"]} == {None}
    with pytest.raises(UsageError, match="no features"):
        stages.compare(connection, encoder, QuerySet.of(some))


def test_without_features_there_is_no_fine_stage(
    filled: tuple[Connection, StoredEncoder, CodeSet],
) -> None:
    connection, encoder, _ = filled
    asked = QuerySet.of(replace(made(3, 1), features=None))
    with pytest.raises(UsageError, match="no features"):
        stages.compare(connection, encoder, asked)
