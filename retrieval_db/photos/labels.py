"""Labels of image files: from their folders, or from a list."""

from __future__ import annotations

import csv
import os
from collections.abc import Callable
from pathlib import Path, PurePosixPath

from .. import texts
from ..errors import FormatError

FOLDER = "folder"

# Says the label of an image file; None where it has none.
Labels = Callable[[Path], str | None]


def label_reader(source: str) -> Labels:
    """Labels from `folder` (the name of the folder a file lies in) or from a CSV file.

    The CSV has the columns path and label, with or without a header line; relative paths
    start from the CSV's folder. An empty label is none.

    Raises:
        FormatError: the file cannot be read, a line has no two columns, or a label cannot be
            stored.
    """
    if source == FOLDER:
        return lambda path: Path(os.path.abspath(path)).parent.name
    file = Path(source)
    given = {os.path.abspath(file.parent / path): label for path, label in _read_csv(file).items()}
    return lambda path: given.get(os.path.abspath(path))


def stored_label_reader(source: str) -> Callable[[str], str | None]:
    """Labels of images that are known by their stored paths alone: the files may be elsewhere.

    As `label_reader`, but the CSV holds the paths as they are stored.
    """
    if source == FOLDER:
        return lambda path: PurePosixPath(path).parent.name or None
    return _read_csv(Path(source)).get


def _read_csv(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except UnicodeDecodeError as error:
        raise FormatError(f"{file} is not UTF-8; save it as UTF-8.") from error
    except (OSError, csv.Error) as error:
        raise FormatError(
            f"--labels takes the word `folder` or a CSV of path,label; {file}: {error}."
        ) from error
    given = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise FormatError(f"{file}, line {number}: a path and a label, not {len(row)} columns.")
        if number == 1 and [cell.strip().lower() for cell in row] == ["path", "label"]:
            continue
        if label := row[1].strip():
            try:
                texts.encoded(label)
            except ValueError as error:
                raise FormatError(f"{file}, line {number}: the label {error}.") from error
            given[row[0].strip()] = label
    return given
