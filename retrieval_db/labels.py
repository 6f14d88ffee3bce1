"""Labels of image files: from their folders, or from a list."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from .encoding import Labels
from .errors import FormatError

FOLDER = "folder"


def label_reader(source: str) -> Labels:
    """Labels from `folder` (the name of the folder a file lies in) or from a CSV file.

    The CSV has the columns path and label, with or without a header line; relative paths
    start from the CSV's folder.

    Raises:
        FormatError: the file cannot be read, or a line has no two columns.
    """
    if source == FOLDER:
        return lambda path: Path(os.path.abspath(path)).parent.name
    given = _read_csv(Path(source))
    return lambda path: given.get(os.path.abspath(path))


def _read_csv(file: Path) -> dict[str, str]:
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            rows = [row for row in csv.reader(lines) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise FormatError(
            f"--labels takes the word `folder` or a CSV of path,label; {file}: {error}."
        ) from error
    given = {}
    for number, row in enumerate(rows, start=1):
        if len(row) != 2:
            raise FormatError(f"{file}, line {number}: a path and a label, not {len(row)} columns.")
        if number == 1 and [cell.strip().lower() for cell in row] == ["path", "label"]:
            continue
        given[os.path.abspath(file.parent / row[0].strip())] = row[1].strip()
    return given
