"""Metrics against scikit-learn where nothing is tied, and against random orders where it is."""

from __future__ import annotations

from math import comb
from pathlib import Path
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval_db import codes
from retrieval_db.evaluation import Ties, metrics
from retrieval_db.evaluation.metrics import Denominator, average_precision, mean, precision_at
from retrieval_db.evaluation.ties import by_label

BOTH: tuple[Denominator, ...] = ("relevant", "found")


def in_these_orders(
    good: NDArray[np.bool_], k: int, denominator: Denominator
) -> NDArray[np.float64]:
    """AP@k of each order, bool [orders, N], by its definition."""
    first = good[:, :k]
    precision = first.cumsum(axis=1) / np.arange(1, first.shape[1] + 1)
    total = good.sum(axis=1)
    count = first.sum(axis=1) if denominator == "found" else np.minimum(k, total)
    average: NDArray[np.float64] = (precision * first).sum(axis=1) / np.maximum(count, 1)
    return average


def random_orders(
    distances: NDArray[np.int64], relevant: NDArray[np.bool_], orders: int
) -> NDArray[np.bool_]:
    """Relevance in rank order, ties shuffled each time: bool [orders, N]."""
    generator = np.random.default_rng(0)
    noise = generator.random((orders, len(distances)))
    ranked = np.lexsort((noise, np.broadcast_to(distances, noise.shape)))
    return relevant[ranked]


def test_average_precision_equals_scikit_learn_without_ties() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    for _ in range(50):
        distances = generator.permutation(200)
        relevant = generator.random(200) < 0.1
        relevant[generator.integers(200)] = True
        expected = sklearn.average_precision_score(relevant, -distances)
        assert average_precision(distances, relevant) == pytest.approx(expected, abs=1e-12)
        found = average_precision(distances, relevant, denominator="found")
        assert found == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("denominator", BOTH)
@pytest.mark.parametrize("k", [1, 7, 20, 40])
def test_average_precision_is_the_mean_over_orders_of_ties(
    k: int, denominator: Denominator
) -> None:
    generator = np.random.default_rng(k)
    distances = generator.integers(0, 5, 40)
    relevant = generator.random(40) < 0.3
    orders = random_orders(distances, relevant, 20_000)
    sample = in_these_orders(orders, k, denominator)
    error = sample.std() / np.sqrt(len(sample))
    exact = average_precision(distances, relevant, k, denominator=denominator)
    assert abs(exact - sample.mean()) < 5 * error + 1e-9


def test_one_great_tie_gives_the_values_known_from_random_orders() -> None:
    relevant = np.arange(1000) < 100
    tied = np.zeros(1000, dtype=int)
    assert average_precision(tied, relevant, 10) == pytest.approx(0.0363, abs=5e-4)
    found = average_precision(tied, relevant, 10, denominator="found")
    assert found == pytest.approx(0.2185, abs=5e-3)


@pytest.mark.parametrize("k", [1, 5, 13, 40])
def test_precision_is_the_mean_over_orders_of_ties(k: int) -> None:
    generator = np.random.default_rng(k)
    distances = generator.integers(0, 4, 40)
    relevant = generator.random(40) < 0.4
    sample = random_orders(distances, relevant, 20_000)[:, :k].mean(axis=1)
    error = sample.std() / np.sqrt(len(sample))
    assert abs(precision_at(distances, relevant, k) - sample.mean()) < 5 * error + 1e-9


@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=1, max_size=30),
    st.integers(1, 40),
    st.randoms(use_true_random=False),
)
def test_the_order_of_the_input_does_not_matter(
    items: list[tuple[int, bool]], k: int, random: Random
) -> None:
    shuffled = random.sample(items, len(items))
    far, good = zip(*items, strict=True)
    other_far, other_good = zip(*shuffled, strict=True)
    for denominator in BOTH:
        value = average_precision(far, good, k, denominator=denominator)
        other = average_precision(other_far, other_good, k, denominator=denominator)
        assert value == pytest.approx(other)
        assert 0 <= value <= 1 + 1e-12
    assert precision_at(far, good, k) == pytest.approx(precision_at(other_far, other_good, k))


@pytest.mark.parametrize("denominator", BOTH)
def test_the_extremes(denominator: Denominator) -> None:
    def ap(distances: list[int], relevant: list[int], k: int | None = None) -> float:
        return average_precision(distances, relevant, k, denominator=denominator)

    assert ap([0, 1, 2], [1, 1, 0]) == pytest.approx(1)
    assert ap([0, 0, 0], [1, 1, 1], 2) == pytest.approx(1)
    assert ap([0, 1, 2], [0, 0, 0]) == 0
    assert ap([], []) == 0
    assert ap([0, 1], [0, 1], 1) == 0
    assert ap([0, 1], [0, 1], 100) == pytest.approx(0.5)


def test_the_denominators_differ_where_relevant_items_lie_beyond_k() -> None:
    distances, relevant = [0, 1, 2, 3], [1, 0, 1, 1]
    assert average_precision(distances, relevant, 2) == pytest.approx(0.5)
    assert average_precision(distances, relevant, 2, denominator="found") == pytest.approx(1)


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="two arrays"):
        average_precision([1, 2], [True])
    with pytest.raises(ValueError, match="NaN"):
        precision_at([float("nan")], [True], 1)
    with pytest.raises(ValueError, match="at least 1"):
        precision_at([1], [True], 0)


def test_the_mean_of_no_queries_is_zero() -> None:
    assert mean([]) == 0
    assert mean(iter([0.25, 0.75])) == 0.5


def tied_rankings(
    queries: int, items: int, levels: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Distances [Q, N] with many ties, and labels that say what is relevant."""
    generator = np.random.default_rng(items)
    distances = generator.integers(0, levels, (queries, items))
    relevant = generator.random((queries, items)) < 0.2
    relevant[0] = False
    return distances, relevant


def counted(distances: NDArray[np.int64], relevant: NDArray[np.bool_], levels: int) -> Ties:
    return Ties(
        np.stack([np.bincount(row, minlength=levels) for row in distances]),
        np.stack(
            [
                np.bincount(row[good], minlength=levels)
                for row, good in zip(distances, relevant, strict=True)
            ]
        ),
    )


@pytest.mark.parametrize("denominator", BOTH)
@pytest.mark.parametrize("k", [None, 1, 3, 17, 80, 500])
def test_many_queries_score_as_each_by_itself(k: int | None, denominator: Denominator) -> None:
    distances, relevant = tied_rankings(25, 80, 9)
    together = metrics.average_precisions(
        counted(distances, relevant, 9), k, denominator=denominator
    )
    alone = [
        by_rank(row, good, k or 80, denominator)
        for row, good in zip(distances, relevant, strict=True)
    ]
    assert together == pytest.approx(alone, abs=1e-12)
    assert together[0] == 0, "nothing is relevant"


def by_rank(
    distances: NDArray[np.int64], good: NDArray[np.bool_], k: int, denominator: Denominator
) -> float:
    """AP@K rank by rank, from the formulas for a single place in a tie."""
    k = min(k, len(distances))
    rank, found, total = 0, 0, 0.0
    for level in np.unique(distances):
        tied = good[distances == level]
        n, r = len(tied), int(tied.sum())
        if denominator == "found" and rank + n >= k:
            # The mean over every way to draw the last tie's items.
            taken, answer = k - rank, 0.0
            for x in range(max(0, taken - (n - r)), min(r, taken) + 1):
                chance = comb(r, x) * comb(n - r, taken - x) / comb(n, taken)
                inner = sum(
                    x / taken * (found + 1 + (x - 1) * (t - 1) / max(taken - 1, 1)) / (rank + t)
                    for t in range(1, taken + 1)
                )
                answer += chance * (total + inner) / max(found + x, 1)
            return answer
        for t in range(1, min(n, k - rank) + 1):
            before = (r - 1) * (t - 1) / max(n - 1, 1)
            total += r / n * (found + 1 + before) / (rank + t)
        rank, found = rank + n, found + r
        if rank >= k:
            break
    return total / max(min(k, int(good.sum())), 1)


def test_precision_and_recall_at_many_ranks() -> None:
    distances, relevant = tied_rankings(12, 60, 7)
    ties = counted(distances, relevant, 7)
    ranks = np.array([1, 2, 5, 33, 60, 200])
    found = metrics.precisions_at(ties, ranks)
    assert found.shape == (12, 6)
    for row, (far, good) in enumerate(zip(distances, relevant, strict=True)):
        for column, k in enumerate(ranks):
            assert found[row, column] == pytest.approx(precision_at(far, good, int(k)))
    recall = metrics.recalls_at(ties, ranks)
    total = np.maximum(relevant.sum(axis=1), 1)
    assert recall * total[:, None] == pytest.approx(found * np.minimum(ranks, 60))
    assert recall[1:, -1] == pytest.approx(1)


def test_recall_of_the_float_search_is_the_mean_over_orders_of_ties() -> None:
    generator = np.random.default_rng(5)
    distances, near = generator.integers(0, 4, 50), np.arange(50) < 10
    sample = random_orders(distances, near, 20_000)[:, :20].sum(axis=1) / 10
    exact = metrics.recalls_at(Ties.of(distances, near), 20)[0, 0]
    assert abs(exact - sample.mean()) < 5 * sample.std() / np.sqrt(len(sample))


def test_pools_hold_their_whole_last_tie() -> None:
    distances, near = np.array([0, 1, 1, 1, 2, 5]), np.array([1, 0, 1, 1, 0, 1], dtype=bool)
    for k, size, recall in ((1, 1, 0.25), (2, 4, 0.75), (4, 4, 0.75), (5, 5, 0.75), (9, 6, 1.0)):
        pools = metrics.pools_with_ties(Ties.of(distances, near), k)
        assert (pools.size.tolist(), pools.recall.tolist()) == ([size], [recall])


def test_within_each_radius_as_scikit_learn_has_it() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    distances, relevant = tied_rankings(15, 70, 8)
    relevant[0] = True
    curve = metrics.radius_curve(counted(distances, relevant, 8))
    for radius in range(8):
        inside = distances <= radius
        scores = [
            sklearn.precision_recall_fscore_support(good, ball, average="binary", zero_division=0)[
                :3
            ]
            for good, ball in zip(relevant, inside, strict=True)
        ]
        precision, recall, f1 = np.mean(scores, axis=0)
        assert curve.precision[radius] == pytest.approx(precision)
        assert curve.recall[radius] == pytest.approx(recall)
        assert curve.f1[radius] == pytest.approx(f1)
        assert curve.retrieved[radius] == pytest.approx(inside.sum(axis=1).mean())
    assert curve.best == int(np.argmax(curve.f1))


def test_an_empty_ball_has_precision_zero() -> None:
    ties = Ties(np.array([[0, 2], [1, 1]]), np.array([[0, 2], [1, 0]]))
    curve = metrics.radius_curve(ties)
    assert curve.precision.tolist() == [0.5, 0.75]
    assert curve.recall.tolist() == [0.5, 1.0]
    assert curve.f1.tolist() == pytest.approx([0.5, (1 + 2 / 3) / 2])


def test_the_list_of_the_authors_of_csq(data_dir: Path) -> None:
    """Their own hundred nearest of each query: mAP@100 as they count it."""
    file = np.load(data_dir / "codes" / "ucf101" / "ucf101_csq64.npz")
    relevant = file["database_label"][file["top100"]] == file["query_label"][:, None]
    ranked = Ties(np.ones(relevant.shape, dtype=np.int64), relevant.astype(np.int64))
    found = metrics.average_precisions(ranked, 100, denominator="found").mean()
    assert found == pytest.approx(0.8738, abs=5e-5)
    # Ties in expectation, not in the order in which they happened to stand.
    database, queries = codes.binarize(file["database"]), codes.binarize(file["query"])
    ties = by_label(queries, database, 64, file["query_label"], file["database_label"])
    own = metrics.average_precisions(ties, 100, denominator="found").mean()
    assert own == pytest.approx(found, abs=0.01)
