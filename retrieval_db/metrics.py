"""Retrieval quality in pure NumPy. Ties count in expectation over all their orders.

Codes are short, so many images lie at the same Hamming distance from a query. A metric that
takes them in the order in which they happen to stand depends on that order; these do not.
McSherry & Najork, "Computing information retrieval performance measures efficiently in the
presence of tied scores", ECIR 2008.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Denominator = Literal["relevant", "found"]


@dataclass(frozen=True)
class Ties:
    """A ranking as its ties, nearest first.

    Attributes:
        size: n, the items of each tie, int64 [G].
        relevant: r, the relevant ones among them, int64 [G].
    """

    size: NDArray[np.int64]
    relevant: NDArray[np.int64]

    @classmethod
    def of(cls, distances: ArrayLike, relevant: ArrayLike) -> Ties:
        """From the distances [N] of one query to all items, and which are relevant, bool [N].

        Raises:
            ValueError: not two arrays [N], or a distance is NaN.
        """
        far, good = np.asarray(distances), np.asarray(relevant, dtype=bool)
        if far.ndim != 1 or far.shape != good.shape:
            raise ValueError(f"expected two arrays [N], not {far.shape} and {good.shape}")
        if far.dtype.kind == "f" and np.isnan(far).any():
            raise ValueError("a distance is NaN")
        levels, level = np.unique(far, return_inverse=True)
        size = np.bincount(level, minlength=len(levels))
        return cls(size, np.bincount(level[good], minlength=len(levels)))


def average_precision(
    distances: ArrayLike,
    relevant: ArrayLike,
    k: int | None = None,
    *,
    denominator: Denominator = "relevant",
) -> float:
    """AP@K of one query: the precision at each relevant item among the first K, averaged.

    Args:
        distances: [N], from the query to every item of the database set; in any order.
        relevant: bool [N].
        k: K; beyond N it means N, as does None.
        denominator: what the sum of precisions is divided by: `relevant` for min(K, all
            relevant items), `found` for the relevant items among the first K, as in the
            protocols of 2015.

    Returns:
        The expectation over all orders within ties; 0.0 if nothing is relevant.

    Raises:
        ValueError: see `Ties.of`; or k < 1.
    """
    ties = Ties.of(distances, relevant)
    total = int(ties.relevant.sum())
    cut = _cut(ties, k)
    if not total or not cut:
        return 0.0
    if denominator == "relevant":
        return float(_precision_sums(ties, cut).sum()) / min(cut, total)
    return _found_average(ties, cut)


def precision_at(distances: ArrayLike, relevant: ArrayLike, k: int) -> float:
    """precision@k of one query: the share of relevant items among the first k.

    A tie at the cut-off counts in expectation: (R + r·(k − N)/n)/k. Arguments and errors are
    those of `average_precision`; k beyond the number of items means all of them.
    """
    ties = Ties.of(distances, relevant)
    cut = _cut(ties, k)
    if not cut:
        return 0.0
    before = np.cumsum(ties.size) - ties.size
    taken = np.clip(cut - before, 0, ties.size)
    return float((ties.relevant * taken / ties.size).sum() / cut)


def mean(values: Iterable[float]) -> float:
    """The mean over queries, such as mAP from the AP of each; 0.0 without queries."""
    array = np.fromiter(values, dtype=np.float64)
    return float(array.mean()) if len(array) else 0.0


def _cut(ties: Ties, k: int | None) -> int:
    if k is not None and k < 1:
        raise ValueError(f"k must be at least 1, not {k}")
    count = int(ties.size.sum())
    return count if k is None else min(k, count)


def _precision_sums(ties: Ties, cut: int) -> NDArray[np.float64]:
    """The expected sum of precisions at the relevant items of each tie, up to rank `cut`.

    At place t of a tie of n items, r of them relevant, the item is relevant with probability
    r/n, and then (r − 1)(t − 1)/(n − 1) of the items before it in the tie are expected to be.
    """
    ends = np.cumsum(ties.size)
    group = np.repeat(np.arange(len(ends)), ties.size)[:cut]
    rank = np.arange(1, cut + 1)
    size, good = ties.size[group], ties.relevant[group]
    place = rank - (ends - ties.size)[group]
    before = (np.cumsum(ties.relevant) - ties.relevant)[group]
    within = (good - 1) * (place - 1) / np.maximum(size - 1, 1)
    gain = good / size * (before + 1 + within) / rank
    return np.asarray(np.bincount(group, weights=gain, minlength=len(ends)), dtype=np.float64)


def _found_average(ties: Ties, cut: int) -> float:
    """AP@K over the relevant items found: only the tie that crosses K makes that random."""
    ends = np.cumsum(ties.size)
    last = int(np.searchsorted(ends, cut))
    n, r = int(ties.size[last]), int(ties.relevant[last])
    start = int(ends[last]) - n
    taken = cut - start
    found = int(ties.relevant[:last].sum())
    before = float(_precision_sums(ties, start)[:last].sum())
    places = np.arange(1, taken + 1)
    first = float((1 / (start + places)).sum())
    second = float(((places - 1) / (start + places)).sum())
    x, chance = _hypergeometric(n, r, taken)
    pairs = (x - 1) / max(taken - 1, 1)
    sums = before + x / taken * ((found + 1) * first + pairs * second)
    return float((chance * sums / np.maximum(found + x, 1)).sum())


def _hypergeometric(n: int, r: int, drawn: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """How many of r relevant among n items are drawn, and the probabilities."""
    x = np.arange(max(0, drawn - (n - r)), min(r, drawn) + 1)
    log_factorial = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])

    def log_choose(items: int, chosen: NDArray[np.int64]) -> NDArray[np.float64]:
        found: NDArray[np.float64] = (
            log_factorial[items] - log_factorial[chosen] - log_factorial[items - chosen]
        )
        return found

    logs = log_choose(r, x) + log_choose(n - r, drawn - x)
    chance = np.exp(logs - logs.max())
    return x, chance / chance.sum()
