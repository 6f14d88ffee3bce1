"""A data set: images, their classes, and the splits it was published with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import FormatError

from .images import Images

Indices = NDArray[np.int64]

# The names of splits, and what else they are called.
SPLITS = {
    "train": "train",
    "training": "train",
    "val": "validation",
    "valid": "validation",
    "validation": "validation",
    "test": "test",
    "testing": "test",
    "database": "database",
    "gallery": "database",
    "query": "query",
    "queries": "query",
}


@dataclass(frozen=True)
class Dataset:
    """Labelled images.

    Attributes:
        name: for people, such as "CIFAR-10 (JPEG copy)".
        images: N images, decoded when they are asked for.
        labels: int64 [N], indices into `classes`.
        classes: their names.
        splits: index arrays, int64, under the names train, validation, test, database, query;
            those that the data set came with.
    """

    name: str
    images: Images
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    splits: Mapping[str, Indices] = field(default_factory=dict)

    def __post_init__(self) -> None:
        count = len(self.images)
        if self.labels.shape != (count,):
            raise FormatError(f"{self.name}: {count} images, but {len(self.labels)} labels.")
        if count and not 0 <= self.labels.min() <= self.labels.max() < len(self.classes):
            raise FormatError(f"{self.name}: a label is none of the {len(self.classes)} classes.")

    def __len__(self) -> int:
        return len(self.images)

    def label_name(self, index: int) -> str:
        """The name of an image's class."""
        return self.classes[int(self.labels[index])]


def numbered(names: Sequence[str]) -> tuple[NDArray[np.int64], tuple[str, ...]]:
    """Class names [N] as labels int64 [N] and the classes in order (numbers by value)."""
    distinct = set(names)
    if all(name.isdecimal() for name in distinct):
        classes = sorted(distinct, key=lambda name: (int(name), name))
    else:
        classes = sorted(distinct)
    index = {name: number for number, name in enumerate(classes)}
    return np.array([index[name] for name in names], dtype=np.int64), tuple(classes)


def parts(sizes: Mapping[str, int]) -> dict[str, Indices]:
    """The splits of images that stand one split after the other."""
    found, start = {}, 0
    for name, size in sizes.items():
        found[name] = np.arange(start, start + size, dtype=np.int64)
        start += size
    return found
