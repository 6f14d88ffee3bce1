"""Labelled images to train and evaluate on, and the protocols that split them.

    from retrieval_db.encoder.datasets import open_data, protocol

    data = open_data("cifar10:cifar10_jpeg.npz")
    split = protocol(data, "cvprw15")
    image, label = data.images[split.query[0]], data.labels[split.query[0]]

Nothing is decoded before it is asked for, and importing it loads no torch.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from retrieval_db.errors import UsageError

from . import folders, lists, published
from .dataset import Dataset
from .images import Images
from .protocols import PROTOCOLS, Split, protocol, validation

__all__ = [
    "PROTOCOLS",
    "PUBLISHED",
    "Dataset",
    "Images",
    "Split",
    "open_data",
    "protocol",
    "validation",
]

# (path or None, folder for downloads or None) → the data set.
Opener = Callable[[Path | None, Path | None], Dataset]

PUBLISHED: dict[str, Opener] = {
    "cifar10": published.cifar10,
    "mnist": published.mnist,
    "cub200": published.cub200,
    "stanford-dogs": published.stanford_dogs,
}


def open_data(spec: str, root: Path | str | None = None) -> Dataset:
    """Open a data set.

    Args:
        spec: one of

            - `DIR`: a folder with one folder of images for each class, or with the folders
              train, validation (or val), test, database, query, which have those;
            - `FILE`, or `train=FILE,database=FILE,query=FILE`: lists with a line `name class`
              for each image;
            - `cifar10[:PATH]`, `mnist[:PATH]`: through torchvision, downloaded if it is not
              in PATH; or, for CIFAR-10, the .npz of JPEG bytes (see `published.cifar10`);
            - `cub200:DIR`, `stanford-dogs:DIR`: their official layouts.
        root: the folder that names in a list are relative to (by default the list's own), or
            where `cifar10` and `mnist` without a PATH are kept.

    Raises:
        UsageError: there is no such file, folder or data set, or it holds no labelled images.
        FormatError: a file is not in the format of that data set.
        DataUnavailable: it is not here and cannot be downloaded.
    """
    base = None if root is None else Path(root)
    kind, colon, place = spec.partition(":")
    if kind in PUBLISHED:
        if colon and not place:
            raise UsageError(f"{spec!r} lacks the path after the colon.")
        return PUBLISHED[kind](Path(place) if place else None, base)
    if lists.is_spec(spec):
        return lists.open_lists(spec, base)
    path = Path(spec)
    # An empty path would be the current folder.
    if spec and path.is_dir():
        return folders.open_folder(path)
    if path.is_file():
        return lists.open_lists(spec, base)
    raise UsageError(
        f"There is no file or folder {spec!r}. Data are a folder with one folder for each class, "
        "a list of `name class` lines, cifar10[:PATH], mnist[:PATH], cub200:DIR or "
        "stanford-dogs:DIR."
    )
