"""Data sets in folders: one folder of images for each class."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np

from retrieval_db import photos
from retrieval_db.errors import UsageError

from .dataset import SPLITS, Dataset, numbered
from .images import Files

logger = logging.getLogger(__name__)


def open_folder(folder: Path) -> Dataset:
    """A folder with one folder of images for each class.

    Or, where all its folders are called train, validation (val), test, database (gallery) or
    query, with such a folder for each split. Images may lie deeper in a class's folder.

    Raises:
        UsageError: there are no images in folders under it.
    """
    folders = _below(folder)
    splits: dict[str, list[int]] = {}
    paths: list[Path] = []
    names: list[str] = []
    split_names = [SPLITS.get(below.name.lower()) for below in folders]
    if folders and all(split_names):
        for split, place in zip(split_names, folders, strict=True):
            assert split is not None
            found, own = _classes(place)
            # Two folders may be the same split, as val and validation are.
            splits.setdefault(split, []).extend(range(len(paths), len(paths) + len(found)))
            paths += found
            names += own
    else:
        paths, names = _classes(folder)
    if not paths:
        raise UsageError(
            f"There are no images in folders under {photos.printable(folder)}. It needs one "
            "folder of images for each class."
        )
    labels, classes = numbered(names)
    return Dataset(
        name=Path(os.path.abspath(folder)).name,
        images=Files(paths),
        labels=labels,
        classes=classes,
        splits={name: np.array(rows, dtype=np.int64) for name, rows in splits.items()},
    )


def _classes(folder: Path) -> tuple[list[Path], list[str]]:
    """The images under a folder, and the class of each: the folder it lies in."""
    paths, names, outside = [], [], 0
    for path in photos.find(folder):
        inside = path.relative_to(folder).parts
        if len(inside) == 1:
            outside += path.is_file()
            continue
        paths.append(path)
        names.append(inside[0])
    if outside:
        logger.warning(
            "%s: images that lie in no class's folder and are left out: %d",
            photos.printable(folder),
            outside,
        )
    return paths, names


def _below(folder: Path) -> list[Path]:
    return sorted(
        path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")
    )
