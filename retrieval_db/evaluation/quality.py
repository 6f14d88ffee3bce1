"""How good a ranking is: all metrics of one, and the baselines to see it beside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .. import arguments
from ..errors import UsageError
from . import metrics, ties
from .ties import Ties

# Ranks of a precision@k curve: all of the first, then evenly on a logarithmic scale.
FIRST_RANKS = 20
RANKS = 100

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Curve:
    """precision@k, the mean over the queries.

    Attributes:
        ranks: k, int64 [M].
        precision: float64 [M].
    """

    ranks: NDArray[np.int64]
    precision: NDArray[np.float64]

    def at(self, k: int) -> float | None:
        """precision@k, where k is one of the ranks."""
        place = np.flatnonzero(self.ranks == k)
        return float(self.precision[place[0]]) if len(place) else None


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The quality of a ranking, ties in expectation; means over the queries.

    Attributes:
        name: what ranked: an encoder, or a baseline.
        queries: how many counted; one without a relevant image counts 0.
        database: how many images were ranked, for the query with the most.
        k: of mAP@k; never more than `database`.
        clipped: the k that was asked for, if the database is smaller.
        mean_average_precision: divided by min(k, all relevant images).
        mean_average_precision_found: divided by the relevant images among the first k.
        without_relevant: queries without any relevant image.
        precision_at: the curve of precision@k.
        radius: precision, recall and F1 within each Hamming radius; None for other distances.
        left_out: queries that were not asked, by the reason.
    """

    name: str
    queries: int
    database: int
    k: int
    clipped: int | None
    mean_average_precision: float
    mean_average_precision_found: float
    without_relevant: int
    precision_at: Curve
    radius: metrics.RadiusCurve | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""

        def plain(value: Any) -> Any:
            if isinstance(value, dict):
                return {key: plain(one) for key, one in value.items()}
            return value.tolist() if isinstance(value, np.ndarray) else value

        found: dict[str, Any] = plain(asdict(self))
        if self.radius is not None:
            found["radius"]["best"] = self.radius.best
        return found


def evaluate(
    name: str, rankings: Ties | Iterable[Ties], *, k: int | None = None, hamming: bool = True
) -> Evaluation:
    """Score rankings.

    Args:
        name: of what ranked.
        rankings: of all queries, whole or in parts.
        k: of mAP@k and the curve; None for the whole ranking.
        hamming: whether the levels of the ties are Hamming distances.

    Raises:
        UsageError: no query, an empty database, or k < 1.
    """
    k = arguments.whole("k", k)
    if k is not None and k < 1:
        raise UsageError("k must be at least 1; None is the whole ranking.")
    parts = [rankings] if isinstance(rankings, Ties) else rankings
    relevant, found, curves, total, none = [], [], [], 0, 0
    whole: list[Ties] = []
    ranks: NDArray[np.int64] | None = None
    for part in parts:
        if not len(part):
            continue
        most = int(part.total.max(initial=0))
        total = max(total, most)
        if ranks is None:
            ranks = curve_ranks(most if k is None else min(k, most))
        relevant.append(metrics.average_precisions(part, k))
        found.append(metrics.average_precisions(part, k, denominator="found"))
        curves.append(metrics.precisions_at(part, ranks))
        none += int((part.total_relevant == 0).sum())
        if hamming:
            whole.append(part)
    if ranks is None or not sum(map(len, relevant)):
        raise UsageError("There is no query to evaluate with.")
    return Evaluation(
        name=name,
        queries=sum(map(len, relevant)),
        database=total,
        k=total if k is None else min(k, total),
        clipped=k if k is not None and k > total else None,
        mean_average_precision=float(np.concatenate(relevant).mean()),
        mean_average_precision_found=float(np.concatenate(found).mean()),
        without_relevant=none,
        precision_at=Curve(ranks, np.concatenate(curves).mean(axis=0)),
        radius=metrics.radius_curve(Ties.stacked(whole)) if hamming else None,
    )


def curve_ranks(most: int) -> NDArray[np.int64]:
    """The ranks of a curve up to `most`: each of the first, the round ones, and some between.

    Raises:
        UsageError: there is no rank.
    """
    if most < 1:
        raise UsageError("The database is empty: there is nothing to rank.")
    spread = np.geomspace(1, most, RANKS).round().astype(np.int64)
    round_ones = [10**power for power in range(1, 10)] + [5 * 10**power for power in range(1, 9)]
    every = np.concatenate([np.arange(1, FIRST_RANKS + 1), spread, round_ones, [most]])
    return np.unique(every[every <= most])


def by_cosine(
    queries: NDArray[np.floating],
    database: NDArray[np.floating],
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    left_out: Sequence[NDArray[np.int64]] | None = None,
    progress: Progress = lambda queries: None,
) -> Iterable[Ties]:
    """Rank a database by the cosine distance of features [Q, D] and [N, D]; one query each.

    `left_out` as in `ties.by_label`.
    """
    known = np.asarray(database_labels)
    rows = zip(ties.cosine_distances(queries, database), np.asarray(query_labels), strict=True)
    for row, (distances, label) in enumerate(rows):
        relevant = known == label
        if left_out is not None:
            distances, relevant = (np.delete(each, left_out[row]) for each in (distances, relevant))
        yield Ties.of(distances, relevant)
        progress(1)


def by_prediction(
    predicted: ArrayLike,
    query_labels: ArrayLike,
    database_labels: ArrayLike,
    *,
    left_out: Sequence[NDArray[np.int64]] | None = None,
) -> Ties:
    """Rank a labelled database by a classifier's word: the images of the predicted label come
    first, all others after them. The baseline that hash codes have to be seen beside.

    `left_out` as in `ties.by_label`.
    """
    words, wanted, labels = map(np.asarray, (predicted, query_labels, database_labels))
    known = Counter(labels.tolist())
    named = np.array([known[word] for word in words.tolist()], dtype=np.int64)
    relevant = np.array([known[label] for label in wanted.tolist()], dtype=np.int64)
    total = np.full(len(words), len(labels), dtype=np.int64)
    for row, own in enumerate(left_out or ()):
        named[row] -= (labels[own] == words[row]).sum()
        relevant[row] -= (labels[own] == wanted[row]).sum()
        total[row] -= len(own)
    right = np.where(words == wanted, named, 0)
    return Ties(
        np.stack([named, total - named], axis=1),
        np.stack([right, relevant - right], axis=1),
    )
