"""Data sets as lists: text files with a line `name class` for each image."""

from __future__ import annotations

import re
from pathlib import Path

from retrieval_db.errors import FormatError, UsageError

from .dataset import SPLITS, Dataset, numbered, parts
from .images import Files


def is_spec(spec: str) -> bool:
    """Whether it is of the form `train=FILE,query=FILE`."""
    return re.match(rf"({'|'.join(SPLITS)})=", spec) is not None


def files_of(spec: str) -> dict[str, Path]:
    """The lists that a spec names, by split; one list is of none, "".

    Raises:
        UsageError: a split is named twice.
    """
    if not is_spec(spec):
        return {"": Path(spec)}
    files: dict[str, Path] = {}
    # A comma may be part of a file's name, so cut only before `split=`.
    for part in re.split(rf",(?=(?:{'|'.join(SPLITS)})=)", spec):
        name, _, place = part.partition("=")
        if SPLITS[name] in files:
            raise UsageError(f"{spec!r} names the {SPLITS[name]} list twice.")
        files[SPLITS[name]] = Path(place)
    return files


def open_lists(spec: str, root: Path | None = None) -> Dataset:
    """One list, or a list for each split: `train=a.txt,database=b.txt,query=c.txt`.

    The class is the last word of a line, a name or a number; the name before it is a path,
    relative to `root`, or to the folder of its list. Empty lines, and lines that begin with #,
    are passed over.

    Raises:
        UsageError: a list cannot be read, is empty, or a split is named twice.
        FormatError: a line has no two words.
    """
    files = files_of(spec)
    paths: list[Path] = []
    names: list[str] = []
    sizes: dict[str, int] = {}
    for split, file in files.items():
        lines = _read(file)
        folder = file.parent if root is None else root
        paths += [folder / name for name, _ in lines]
        names += [label for _, label in lines]
        sizes[split] = len(lines)
    labels, classes = numbered(names)
    return Dataset(
        name="+".join(file.stem for file in files.values()),
        images=Files(paths),
        labels=labels,
        classes=classes,
        splits={} if "" in sizes else parts(sizes),
    )


def _read(file: Path) -> list[tuple[str, str]]:
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UsageError(f"The list {file} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise FormatError(f"The list {file} is not UTF-8 text.") from error
    found = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.strip().rsplit(maxsplit=1)
        if len(words) != 2:
            raise FormatError(f"{file}, line {number}: expected `name class`, not {line!r}.")
        found.append((words[0], words[1]))
    if not found:
        raise UsageError(f"The list {file} is empty.")
    return found
