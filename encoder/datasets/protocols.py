"""Protocols: which images of a data set train, which are searched in, and which are queries."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import UsageError

from .dataset import Dataset, Indices

VALIDATION_SHARE = 0.1
UNSEEN_SHARE = 0.3
QUERY_SHARE = 0.1


@dataclass(frozen=True)
class Split:
    """The images of a data set in their roles, and how the answers are scored.

    Attributes:
        protocol: its name.
        train, database, query: int64 indices into the data set, ascending.
        k: the ranks that mAP looks at; None for the whole ranking.
        denominator: what the sum of precisions is divided by; see
            `retrieval_db.evaluation.metrics`.
        note: one sentence for tables: what was trained on, searched in and asked.
    """

    protocol: str
    train: Indices
    database: Indices
    query: Indices
    k: int | None
    denominator: Literal["relevant", "found"]
    note: str


def protocol(dataset: Dataset, name: str, seed: int = 0) -> Split:
    """Split a data set as a protocol says; see the functions in this file for each.

    Args:
        name: one of `PROTOCOLS`.
        seed: of what is drawn. `cvprw15` draws nothing; `full` only without official splits.

    Raises:
        UsageError: no such protocol, or one that this data set cannot serve.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"Unknown protocol {name!r}. The protocols are {', '.join(PROTOCOLS)}.")
    split = PROTOCOLS[name](dataset, np.random.default_rng(seed))
    for role in ("train", "database", "query"):
        if not len(getattr(split, role)):
            raise UsageError(f"{dataset.name}: the protocol {name} leaves no {role} images.")
    return split


def cvprw15(dataset: Dataset, random: np.random.Generator) -> Split:
    """The official split: the training set is also the database, every test image a query.

    mAP@1000, divided by the relevant images found. Lin, Yang, Hsiao & Chen, "Deep learning of
    binary hash codes for fast image retrieval", CVPR workshops 2015. Since the database is
    the labelled training set, mAP is close to the accuracy of a classifier.
    """
    train, test = (_official(dataset, name, "cvprw15") for name in ("train", "test"))
    return Split(
        "cvprw15",
        train,
        train,
        test,
        k=1000,
        denominator="found",
        note="official split; database = training set; all test images are queries",
    )


def cifar10_5k(dataset: Dataset, random: np.random.Generator) -> Split:
    """100 queries and 500 training images of each class, drawn from all images.

    On CIFAR-10: 1,000 queries, and the other 59,000 images are the database, 5,000 of which
    train. mAP over the whole ranking, divided by all relevant images. Xia, Pan, Lai, Liu &
    Yan, "Supervised hashing for image retrieval via image representation learning", AAAI
    2014; later papers with these numbers often score the first 5,000 or 54,000 ranks instead.
    The official split plays no part, so nothing that was trained on it may be scored here.
    """
    query, rest = _draw(dataset, np.arange(len(dataset)), 100, random)
    train, _ = _draw(dataset, rest, 500, random)
    return Split(
        "cifar10-5k",
        train,
        rest,
        query,
        k=None,
        denominator="relevant",
        note="100 queries a class; database = all others; 500 of these a class train",
    )


def unseen(dataset: Dataset, random: np.random.Generator) -> Split:
    """Three in ten classes are never seen in training, and only they are searched for.

    Trained on the training images of the other classes (on CIFAR-10: 7 classes, 35,000
    images); the database is the training images of the unseen classes (15,000), the queries
    are their test images (3,000). The unseen classes are drawn with the seed. mAP over the
    whole ranking, divided by all relevant images. Sablayrolles, Douze, Usunier & Jégou, "How
    should we evaluate supervised hashing?", ICASSP 2017: where every class was trained, a
    classifier's label of a few bits beats every code; here it cannot.
    """
    train, query = _train_and_query(dataset, random, "unseen")
    count = len(dataset.classes)
    hidden = max(2, round(UNSEEN_SHARE * count))
    if count - hidden < 2:
        raise UsageError(f"The protocol unseen needs at least 4 classes; there are {count}.")
    chosen = np.sort(random.permutation(count)[:hidden])
    new = np.isin(dataset.labels, chosen)
    names = [dataset.classes[number] for number in chosen]
    shown = ", ".join(names[:5]) + (", …" if len(names) > 5 else "")
    return Split(
        "unseen",
        train[~new[train]],
        train[new[train]],
        query[new[query]],
        k=None,
        denominator="relevant",
        note=f"{count - hidden} classes trained; database and queries of {hidden} others ({shown})",
    )


def full(dataset: Dataset, random: np.random.Generator) -> Split:
    """The splits that the data set came with, and the whole ranking.

    The database is the split `database`, else `train`; the queries are the split `query`,
    else `test`, else `validation`. Without splits one image in ten of each class (rounded
    up, drawn with the seed) is a query, and the others are training set and database. mAP
    over the whole ranking, divided by all relevant images.
    """
    train, query = _train_and_query(dataset, random, "full")
    drawn = "" if dataset.splits else "; one image in ten of each class drawn as a query"
    own = dataset.splits.get("database")
    return Split(
        "full",
        train,
        train if own is None else own,
        query,
        k=None,
        denominator="relevant",
        note=("database = training set" if own is None else "database split") + drawn,
    )


def validation(
    dataset: Dataset, split: Split, seed: int = 0, share: float = VALIDATION_SHARE
) -> Split:
    """The same protocol within the training set, to choose by without touching the test.

    Of each class a share (rounded) of the training images becomes the queries, and the rest
    is trained on and searched in: 45,000 and 5,000 of CIFAR-10's 50,000.

    Raises:
        UsageError: a class has too few images for that.
    """
    random = np.random.default_rng(seed)
    held = []
    for number in np.unique(dataset.labels[split.train]):
        rows = split.train[dataset.labels[split.train] == number]
        held.append(random.permutation(rows)[: round(share * len(rows))])
    query = np.sort(np.concatenate(held)).astype(np.int64)
    if not len(query):
        raise UsageError(
            f"{dataset.name}: too few training images in each class to hold out {share:.0%}."
        )
    train = np.setdiff1d(split.train, query)
    note = f"held out of the training set of {split.protocol}: {len(query)} queries"
    return replace(split, train=train, database=train, query=query, note=note)


PROTOCOLS: dict[str, Callable[[Dataset, np.random.Generator], Split]] = {
    "cvprw15": cvprw15,
    "cifar10-5k": cifar10_5k,
    "unseen": unseen,
    "full": full,
}


def _official(dataset: Dataset, name: str, wanted_by: str) -> Indices:
    if name not in dataset.splits:
        has = ", ".join(dataset.splits) or "none"
        raise UsageError(
            f"The protocol {wanted_by} needs the {name} split of {dataset.name}, which has "
            f"{has}. `--protocol full` takes any labelled images."
        )
    return dataset.splits[name]


def _train_and_query(
    dataset: Dataset, random: np.random.Generator, wanted_by: str
) -> tuple[Indices, Indices]:
    """The official ones, or one in ten of each class as queries where there are no splits."""
    if not dataset.splits:
        held = [
            random.permutation(rows)[: -(-len(rows) // round(1 / QUERY_SHARE))]
            for number in range(len(dataset.classes))
            if len(rows := np.flatnonzero(dataset.labels == number)) > 1
        ]
        query = np.sort(np.concatenate(held)) if held else np.empty(0, dtype=np.int64)
        return np.setdiff1d(np.arange(len(dataset)), query), query
    for name in ("query", "test", "validation"):
        if name in dataset.splits:
            return _official(dataset, "train", wanted_by), dataset.splits[name]
    raise UsageError(
        f"{dataset.name} has no queries among its splits ({', '.join(dataset.splits)}): "
        "add a query, test or validation split."
    )


def _draw(
    dataset: Dataset, rows: NDArray[np.int64], each: int, random: np.random.Generator
) -> tuple[Indices, Indices]:
    """So many of these images of each class, and the others.

    Raises:
        UsageError: a class has no more than that.
    """
    drawn = []
    for number, name in enumerate(dataset.classes):
        own = rows[dataset.labels[rows] == number]
        if len(own) <= each:
            raise UsageError(
                f"{dataset.name}: {each} images of the class {name!r} are to be drawn, and "
                f"{len(own)} are there. `--protocol full` takes any labelled images."
            )
        drawn.append(random.permutation(own)[:each])
    taken = np.sort(np.concatenate(drawn)).astype(np.int64)
    return taken, np.setdiff1d(rows, taken)
