"""Metrics against scikit-learn where nothing is tied, and against random orders where it is."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval_db.metrics import Denominator, average_precision, mean, precision_at

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
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.default_rng(1)
    for _ in range(50):
        distances = generator.permutation(200)
        relevant = generator.random(200) < 0.1
        relevant[generator.integers(200)] = True
        expected = metrics.average_precision_score(relevant, -distances)
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
