"""Data sets in the form they were published in: CIFAR-10, MNIST, CUB-200-2011, Stanford Dogs."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import DataUnavailable, FormatError, UsageError

from .. import checkpoint
from ..files import home_folder
from .dataset import Dataset, parts
from .images import Encoded, Files, Pixels

CIFAR10_CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


def cifar10(path: Path | None = None, root: Path | None = None) -> Dataset:
    """CIFAR-10: 50,000 images to train, 10,000 to test, 32 × 32 pixels, 10 classes.

    Krizhevsky, "Learning multiple layers of features from tiny images", 2009.

    Args:
        path: torchvision's folder (the one with `cifar-10-batches-py` in it), into which it
            is downloaded if it is not there; or a .npz with `jpeg` (uint8, the files one
            after the other), `offsets` [N + 1], `labels` [N] and `n_train`, whose images were
            made JPEG: its name says so, since figures on it are not those of CIFAR-10.
        root: the folder, where there is no `path`.

    Raises:
        DataUnavailable: it is not here and cannot be downloaded.
        FormatError: a damaged copy.
    """
    if path is not None and (path.is_file() or path.suffix == ".npz"):
        return _jpeg_copy(path)
    train, test = _torchvision("CIFAR10", "cifar10", path, root)
    return Dataset(
        name="CIFAR-10",
        images=Pixels("cifar10", np.concatenate([train.data, test.data])),
        labels=np.array([*train.targets, *test.targets], dtype=np.int64),
        classes=tuple(train.classes),
        splits=parts({"train": len(train), "test": len(test)}),
    )


def mnist(path: Path | None = None, root: Path | None = None) -> Dataset:
    """MNIST: 60,000 handwritten digits to train, 10,000 to test, 28 × 28 pixels, grey.

    LeCun, Bottou, Bengio & Haffner, "Gradient-based learning applied to document
    recognition", Proc. IEEE 1998.

    Args:
        path: torchvision's folder (the one with `MNIST/raw` in it), into which it is
            downloaded if it is not there.
        root: the folder, where there is no `path`.

    Raises:
        DataUnavailable: it is not here and cannot be downloaded.
        FormatError: a damaged copy.
    """
    train, test = _torchvision("MNIST", "mnist", path, root)
    pixels = [part.data.numpy() for part in (train, test)]
    return Dataset(
        name="MNIST",
        images=Pixels("mnist", np.concatenate(pixels)),
        labels=np.concatenate([part.targets.numpy() for part in (train, test)]).astype(np.int64),
        classes=tuple(str(digit) for digit in range(10)),
        splits=parts({"train": len(train), "test": len(test)}),
    )


def cub200(path: Path | None = None, root: Path | None = None) -> Dataset:
    """CUB-200-2011: 5,994 photos of birds to train, 5,794 to test, 200 species.

    Wah, Branson, Welinder, Perona & Belongie, "The Caltech-UCSD Birds-200-2011 dataset",
    2011. The official folder: `images.txt`, `image_class_labels.txt`,
    `train_test_split.txt`, `classes.txt` (if it is there) and `images/`. Bounding boxes are
    not used: a query photo comes without one.

    Args:
        path: the folder CUB_200_2011, or the one it lies in.

    Raises:
        UsageError: no path, or none of these files there.
        FormatError: the files do not fit together.
    """
    folder = _official("cub200", "CUB-200-2011", path, "images.txt", "CUB_200_2011")
    names = _columns(folder / "images.txt")
    species = _columns(folder / "image_class_labels.txt")
    training = _columns(folder / "train_test_split.txt")
    if not names.keys() == species.keys() == training.keys():
        raise FormatError(f"The lists in {folder} are not of the same images.")
    numbers = sorted({*species.values()}, key=_number)
    titles = {number: number for number in numbers}
    if (folder / "classes.txt").is_file():
        titles |= _columns(folder / "classes.txt")
    index = {number: place for place, number in enumerate(numbers)}
    keys = sorted(names, key=_number)
    trains = np.array([training[key] == "1" for key in keys])
    return Dataset(
        name="CUB-200-2011",
        images=Files([folder / "images" / names[key] for key in keys]),
        labels=np.array([index[species[key]] for key in keys], dtype=np.int64),
        classes=tuple(titles[number] for number in numbers),
        splits={"train": np.flatnonzero(trains), "test": np.flatnonzero(~trains)},
    )


def stanford_dogs(path: Path | None = None, root: Path | None = None) -> Dataset:
    """Stanford Dogs: 12,000 photos to train, 8,580 to test, 120 breeds.

    Khosla, Jayadevaprakash, Yao & Fei-Fei, "Novel dataset for fine-grained image
    categorization", FGVC 2011. The official files: `train_list.mat` and `test_list.mat`, and
    the photos in `Images/`. Bounding boxes are not used: a query photo comes without one.

    Args:
        path: the folder with Images/; the lists lie in it or in its folder lists/.

    Raises:
        UsageError: no path, or none of these files there.
        FormatError: a list is not in the official form.
    """
    folder = _official("stanford-dogs", "Stanford Dogs", path, "Images")
    names: list[str] = []
    labels: list[NDArray[np.int64]] = []
    sizes = {}
    for split in ("train", "test"):
        files, breeds = _mat_list(folder, f"{split}_list.mat")
        names += files
        labels.append(breeds)
        sizes[split] = len(files)
    numbers, index = np.unique(np.concatenate(labels), return_inverse=True)
    titles = {number: str(number) for number in numbers.tolist()}
    # The folder of a breed: n02085620-Chihuahua.
    for name, number in zip(names, np.concatenate(labels).tolist(), strict=True):
        titles[number] = name.split("/")[0].partition("-")[2] or titles[number]
    return Dataset(
        name="Stanford Dogs",
        images=Files([folder / "Images" / name for name in names]),
        labels=index.astype(np.int64),
        classes=tuple(titles[number] for number in numbers.tolist()),
        splits=parts(sizes),
    )


def _jpeg_copy(path: Path) -> Dataset:
    try:
        with path.open("rb") as file:
            if not zipfile.is_zipfile(file):
                raise FormatError(
                    f"{path} is not an npz with jpeg, offsets, labels and n_train. A list is named "
                    f"without cifar10: --data {path}"
                )
        with np.load(path, allow_pickle=False) as archive:
            data, offsets, labels = (archive[name] for name in ("jpeg", "offsets", "labels"))
            trains = int(archive["n_train"])
    except FileNotFoundError as error:
        raise UsageError(f"There is no file {path}.") from error
    # NumPy speaks of pickles, which no data set needs.
    except ValueError as error:
        raise FormatError(
            f"{path} is not an npz with jpeg, offsets, labels and n_train: an array is damaged."
        ) from error
    except (KeyError, TypeError, OSError, EOFError, zipfile.BadZipFile) as error:
        raise FormatError(
            f"{path} is not an npz with jpeg, offsets, labels and n_train: {error}"
        ) from error
    offsets = offsets.astype(np.int64)
    whole = offsets.ndim == 1 and len(offsets) > 1 and offsets[0] == 0
    if not whole or offsets[-1] != len(data) or (np.diff(offsets) <= 0).any():
        raise FormatError(f"{path}: its offsets do not fit its bytes.")
    count = len(offsets) - 1
    if not 0 < trains <= count:
        raise FormatError(f"{path}: n_train is {trains} of {count} images.")
    return Dataset(
        name="CIFAR-10 (JPEG copy)",
        images=Encoded("cifar10", data, offsets),
        labels=labels.astype(np.int64),
        classes=CIFAR10_CLASSES,
        splits=parts({"train": trains, "test": count - trains}),
    )


def _torchvision(kind: str, title: str, path: Path | None, root: Path | None) -> tuple[Any, Any]:
    """Its training and its test part, downloaded where they are not there."""
    try:
        import torchvision.datasets
    except ModuleNotFoundError as error:
        raise checkpoint.missing_extra(error) from error
    folder = path or root or home_folder() / "data"
    opener = getattr(torchvision.datasets, kind)
    try:
        train, test = (opener(folder, train=part, download=True) for part in (True, False))
    # torchvision: RuntimeError for what cannot be downloaded or is damaged, urllib: OSError.
    except (OSError, RuntimeError) as error:
        reason = str(error).strip().splitlines()[0].rstrip(".:")
        raise DataUnavailable(
            f"{title} is not in {folder} and cannot be downloaded ({reason}). Where there is no "
            f"network, copy torchvision's folder there, or name a copy: {title}:PATH."
        ) from error
    except (ValueError, KeyError, TypeError, EOFError) as error:
        raise FormatError(f"The copy of {title} in {folder} is damaged: {error}") from error
    return train, test


def _official(spec: str, title: str, path: Path | None, mark: str, inside: str = "") -> Path:
    """The folder that holds the file or folder `mark`: `path` itself, or `inside` it."""
    if path is None:
        raise UsageError(f"{title} is not downloaded here: name its folder, {spec}:DIR.")
    for folder in (path, path / inside):
        if (folder / mark).exists():
            return folder
    raise UsageError(f"{path} is not the folder of {title}: there is no {mark} in it.")


def _columns(file: Path) -> dict[str, str]:
    """The two columns of a list of CUB-200-2011."""
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FormatError(f"{file} cannot be read: {error}") from error
    rows = [line.split(maxsplit=1) for line in lines if line.strip()]
    if any(len(row) != 2 for row in rows):
        raise FormatError(f"{file}: a line has no two columns.")
    return {key: value.strip() for key, value in rows}


def _number(text: str) -> tuple[int, str]:
    return (int(text), "") if text.isdecimal() else (0, text)


def _mat_list(folder: Path, name: str) -> tuple[list[str], NDArray[np.int64]]:
    """The file names and the numbers of the breeds in a list of Stanford Dogs."""
    # Late: scipy is slow to import.
    from scipy.io import loadmat
    from scipy.io.matlab import MatReadError

    places = (folder / name, folder / "lists" / name)
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise UsageError(f"There is no {name} in {folder}, nor in its folder lists.")
    try:
        content = loadmat(file)
        names = [str(cell.item()) for cell in content["file_list"].ravel()]
        breeds = content["labels"].ravel().astype(np.int64)
    except (MatReadError, KeyError, ValueError, AttributeError, NotImplementedError) as error:
        raise FormatError(f"{file} is not a list of Stanford Dogs: {error}") from error
    if len(names) != len(breeds):
        raise FormatError(f"{file}: {len(names)} files, but {len(breeds)} labels.")
    return names, breeds
