"""Retrieval quality in pure NumPy. Ties count in expectation over all their orders.

Codes are short, so many images lie at the same Hamming distance from a query. A metric that
takes them in the order in which they happen to stand depends on that order; these do not.
McSherry & Najork, "Computing information retrieval performance measures efficiently in the
presence of tied scores", ECIR 2008.

A query for which nothing is relevant scores 0 and counts.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .ties import Ties

Denominator = Literal["relevant", "found"]
Float64 = NDArray[np.float64]


def average_precisions(
    ties: Ties, k: int | None = None, *, denominator: Denominator = "relevant"
) -> Float64:
    """AP@K of each query: the precision at each relevant item among the first K, averaged.

    Going up in distance, let a tie have n items, r of them relevant, and let N and R count
    those before it; T = max(0, min(n, K − N)) of its items are among the first K. With
    H1 = Σ_{t=1..T} 1/(N + t) and H2 = Σ_{t=1..T} (t − 1)/(N + t), the expected sum of its
    precisions is r/n · [(R + 1)·H1 + (r − 1)/(n − 1)·H2].

    Args:
        ties: the rankings of Q queries.
        k: K; beyond the items that are ranked it means all of them, as does None.
        denominator: what the sum of precisions is divided by: `relevant` for min(K, all
            relevant items), `found` for the relevant items among the first K, as in the
            protocols of 2015.

    Returns:
        float64 [Q], the expectation over all orders within ties; 0.0 if nothing is relevant.

    Raises:
        ValueError: k < 1.
    """
    cut = _cuts(ties, k)
    sums = _precision_sums(ties, cut)
    if denominator == "relevant":
        least = np.minimum(cut, ties.total_relevant)
        average: Float64 = sums.sum(axis=1) / np.maximum(least, 1)
        return average
    return _found_averages(ties, cut, sums)


def precisions_at(ties: Ties, ranks: ArrayLike) -> Float64:
    """precision@k of each query: the share of relevant items among the first k.

    A tie at the cut-off counts in expectation: (R + r·(k − N)/n)/k.

    Args:
        ties: the rankings of Q queries.
        ranks: k, one or several [M]; beyond the items that are ranked it means all of them.

    Returns:
        float64 [Q, M].

    Raises:
        ValueError: a k < 1.
    """
    cuts = np.atleast_1d(np.asarray(ranks))
    _check_rank(int(cuts.min()))
    found = _found_at(ties, cuts)
    precision: Float64 = found / np.maximum(np.minimum(cuts, ties.total[:, None]), 1)
    return precision


def recalls_at(ties: Ties, ranks: ArrayLike) -> Float64:
    """recall@k of each query: the share of the relevant items that are among the first k.

    Where the relevant items are the nearest by a float distance (`ties.by_neighbours`), it is
    the share of the float search's answer that a pool of k codes holds. Arguments, result and
    errors as `precisions_at`.
    """
    cuts = np.atleast_1d(np.asarray(ranks))
    _check_rank(int(cuts.min()))
    recall: Float64 = _found_at(ties, cuts) / np.maximum(ties.total_relevant, 1)[:, None]
    return recall


@dataclass(frozen=True)
class WithTies:
    """Pools of at least k items that hold the whole last tie.

    Attributes:
        size: int64 [Q], items in the pool.
        recall: float64 [Q], the share of the relevant items that are in it.
    """

    size: NDArray[np.int64]
    recall: Float64


def pools_with_ties(ties: Ties, k: int) -> WithTies:
    """The first k items of each query, and those as near as the k-th.

    Raises:
        ValueError: k < 1.
    """
    _check_rank(k)
    ends, found = ties.size.cumsum(axis=1), ties.relevant.cumsum(axis=1)
    last = np.minimum((ends < k).sum(axis=1), ends.shape[1] - 1)[:, None]
    recall = np.take_along_axis(found, last, axis=1)[:, 0] / np.maximum(ties.total_relevant, 1)
    return WithTies(np.take_along_axis(ends, last, axis=1)[:, 0], recall)


@dataclass(frozen=True)
class RadiusCurve:
    """Precision, recall and F1 of everything within each radius; means over the queries.

    Attributes:
        precision, recall, f1: float64 [G], for the levels of the ties; with Hamming codes
            level d is radius d. An empty ball has precision 0, and F1 is the mean of the
            queries' own F1 (macro F1).
        retrieved: float64 [G], how many items lie within the radius.
    """

    precision: Float64
    recall: Float64
    f1: Float64
    retrieved: Float64

    @property
    def best(self) -> int:
        """The level of the best macro F1; the smallest of equals."""
        return int(self.f1.argmax())


def radius_curve(ties: Ties) -> RadiusCurve:
    """Precision, recall and F1 within each radius, macro over the queries of `ties`."""
    inside = ties.size.cumsum(axis=1)
    good = ties.relevant.cumsum(axis=1)
    total = ties.total_relevant[:, None]
    return RadiusCurve(
        precision=_mean(good / np.maximum(inside, 1)),
        recall=_mean(good / np.maximum(total, 1)),
        # 2PR/(P + R) with P = good/inside and R = good/total.
        f1=_mean(2 * good / np.maximum(inside + total, 1)),
        retrieved=_mean(inside.astype(np.float64)),
    )


def average_precision(
    distances: ArrayLike,
    relevant: ArrayLike,
    k: int | None = None,
    *,
    denominator: Denominator = "relevant",
) -> float:
    """AP@K of one query, from its distances [N] and which items are relevant, bool [N].

    >>> average_precision([0, 1, 1, 2], [True, True, False, False])
    0.9166666666666666

    See `average_precisions`.

    Raises:
        ValueError: see `Ties.of`; or k < 1.
    """
    ties = Ties.of(distances, relevant)
    return float(average_precisions(ties, k, denominator=denominator)[0])


def precision_at(distances: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """precision@k of one query, from its distances [N] and which items are relevant, bool [N].

    See `precisions_at`.

    Raises:
        ValueError: see `Ties.of`; or k < 1.
    """
    return float(precisions_at(Ties.of(distances, relevant), k)[0, 0])


def mean(values: Iterable[float]) -> float:
    """The mean over queries, such as mAP from the AP of each; 0.0 without queries."""
    array = np.fromiter(values, dtype=np.float64)
    return float(array.mean()) if len(array) else 0.0


def _mean(values: Float64) -> Float64:
    return values.mean(axis=0) if len(values) else np.zeros(values.shape[1])


def _check_rank(k: int) -> None:
    if k < 1:
        raise ValueError(f"k must be at least 1, not {k}")


def _cuts(ties: Ties, k: int | None) -> NDArray[np.int64]:
    """K for each query: never more than are ranked."""
    if k is None:
        return ties.total
    _check_rank(k)
    return np.minimum(k, ties.total)


def _found_at(ties: Ties, cuts: NDArray[np.int64]) -> Float64:
    """The expected number of relevant items among the first k, [Q, M]: within a tie it grows
    by r/n with each rank, so it is a straight line from one tie's end to the next."""
    ends, good = (
        np.concatenate([np.zeros((len(ties), 1), dtype=np.int64), counts.cumsum(axis=1)], axis=1)
        for counts in (ties.size, ties.relevant)
    )
    found = [np.interp(cuts, x, y) for x, y in zip(ends, good, strict=True)]
    return np.array(found, dtype=np.float64).reshape(len(ties), len(cuts))


def _precision_sums(ties: Ties, cut: NDArray[np.int64]) -> Float64:
    """The expected sum of precisions at the relevant items of each tie, up to rank `cut`, [Q, G].

    At place t of a tie of n items, r of them relevant, the item is relevant with probability
    r/n, and then (r − 1)(t − 1)/(n − 1) of the items before it in the tie are expected to be.
    """
    n, r = ties.size, ties.relevant
    before, found = n.cumsum(axis=1) - n, r.cumsum(axis=1) - r
    taken = np.clip(cut[:, None] - before, 0, n)
    harmonic = _harmonic(int(cut.max(initial=0)))
    # Ties beyond the cut take nothing; their place in the table is never used.
    start = np.minimum(before, len(harmonic) - 1)
    first = harmonic[start + taken] - harmonic[start]
    # (t − 1)/(N + t) = 1 − (N + 1)/(N + t).
    second = taken - (before + 1) * first
    pairs = (r - 1) / np.maximum(n - 1, 1)
    sums = r / np.maximum(n, 1) * ((found + 1) * first + pairs * second)
    return np.where(taken > 0, sums, 0).astype(np.float64)


def _harmonic(count: int) -> NDArray[np.longdouble]:
    """Σ_{i=1..n} 1/i for n = 0..count. In extended precision, because differences are taken."""
    steps = 1 / np.arange(1, count + 1, dtype=np.longdouble)
    return np.concatenate([np.zeros(1, dtype=np.longdouble), steps.cumsum()])


def _found_averages(ties: Ties, cut: NDArray[np.int64], sums: Float64) -> Float64:
    """AP@K over the relevant items found: only the tie that crosses K makes that random.

    With S₀ the sum over the ties before it and X ~ Hypergeometric(n, r, T) of its relevant
    items among the first K, it is Σ_x P(X = x)·[S₀ + (x/T)·((R + 1)·H1 +
    (x − 1)/(T − 1)·H2)]/(R + x).
    """
    ends, good = ties.size.cumsum(axis=1), ties.relevant.cumsum(axis=1)
    last = np.minimum((ends < cut[:, None]).sum(axis=1), ends.shape[1] - 1)
    log_factorial = np.concatenate([[0.0], np.log(np.arange(1, ties.size.max(initial=0) + 1))])
    log_factorial = log_factorial.cumsum()
    harmonic = _harmonic(int(cut.max(initial=0)))
    found = np.zeros(len(ties))
    for query in np.flatnonzero((cut > 0) & (ties.total_relevant > 0)):
        tie = last[query]
        n, r = int(ties.size[query, tie]), int(ties.relevant[query, tie])
        start, known = int(ends[query, tie]) - n, int(good[query, tie]) - r
        taken = int(cut[query]) - start
        first = float(harmonic[start + taken] - harmonic[start])
        second = float(taken - (start + 1) * (harmonic[start + taken] - harmonic[start]))
        x, chance = _hypergeometric(n, r, taken, log_factorial)
        pairs = (x - 1) / max(taken - 1, 1)
        total = sums[query, :tie].sum() + x / taken * ((known + 1) * first + pairs * second)
        found[query] = (chance * total / np.maximum(known + x, 1)).sum()
    return found


def _hypergeometric(
    n: int, r: int, drawn: int, log_factorial: Float64
) -> tuple[NDArray[np.int64], Float64]:
    """How many of r relevant among n items are drawn, and the probabilities."""
    x = np.arange(max(0, drawn - (n - r)), min(r, drawn) + 1)

    def log_choose(items: int, chosen: NDArray[np.int64]) -> Float64:
        found: Float64 = (
            log_factorial[items] - log_factorial[chosen] - log_factorial[items - chosen]
        )
        return found

    logs = log_choose(r, x) + log_choose(n - r, drawn - x)
    chance = np.exp(logs - logs.max())
    return x, chance / chance.sum()
