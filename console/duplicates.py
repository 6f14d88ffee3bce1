"""Near-duplicates, printed."""

from __future__ import annotations

import csv
import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from retrieval_db.client import Database
from retrieval_db.duplicates import Group, Member, Pair, Since, as_groups
from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.presentation import write_duplicates

from .answering import Format
from .screen import note, print_json, print_table

# A page of more groups is too long to be read.
MOST = 200


def since(text: str | None) -> Since:
    """What `--since` says: an id, or a time (of this machine's zone, if it names none).

    Raises:
        UsageError: neither.
    """
    if text is None:
        return None
    try:
        if text.isdecimal():
            return int(text)
        time = datetime.fromisoformat(text)
        return time if time.tzinfo is not None else time.astimezone()
    except (ValueError, OverflowError) as error:
        raise UsageError(
            f"--since is an image's id or a time such as 2025-01-31T12:00; not {text!r}."
        ) from error


def show(
    found: Sequence[Pair] | Sequence[Group],
    style: Format,
    *,
    encoder: StoredEncoder,
    radius: int,
    grouped: bool,
    limit: int | None,
) -> None:
    """Print pairs, nearest first, or groups, largest first."""
    shown = found[:limit]
    if style is Format.JSON:
        print_json([dataclasses.asdict(one) for one in shown])
    elif style is Format.JSONL:
        for one in shown:
            print(json.dumps(dataclasses.asdict(one), ensure_ascii=False))
    elif style is Format.CSV:
        csv.writer(sys.stdout, lineterminator="\n").writerows(_lines(shown, grouped))
    elif shown:
        head, *rows = _lines(shown, grouped)
        print_table(head, [["" if cell is None else cell for cell in row] for row in rows])
    note(f"{_count(found)} of {encoder.name} within {radius} bits{_of(found, shown)}.")


def write_page(
    db: Database,
    found: Sequence[Pair] | Sequence[Group],
    file: Path,
    *,
    encoder: StoredEncoder,
    radius: int,
    grouped: bool,
    limit: int | None,
) -> None:
    """Write the page: it counts all that was found, and shows what was asked for."""
    pairs = [one for one in found if isinstance(one, Pair)]
    groups = [one for one in found if isinstance(one, Group)]
    write_duplicates(
        groups or as_groups(db.connection, pairs),
        file,
        encoder=encoder,
        radius=radius,
        kind="group" if grouped else "pair",
        limit=MOST if limit is None else min(limit, MOST),
    )
    note(f"Wrote {file}")


def _lines(found: Sequence[Pair] | Sequence[Group], grouped: bool) -> list[list[Any]]:
    """The head and the rows of a table: a row for each pair, or for each image of a group."""
    if not grouped:
        head = [field.name for field in dataclasses.fields(Pair)]
        return [head, *(list(dataclasses.astuple(pair)) for pair in found)]
    rows = [
        [number, *dataclasses.astuple(image)]
        for number, group in enumerate(found, start=1)
        if isinstance(group, Group)
        for image in group.images
    ]
    return [["group", *(field.name for field in dataclasses.fields(Member))], *rows]


def _count(found: Sequence[Pair] | Sequence[Group]) -> str:
    if not found:
        return "No near-duplicates"
    groups = [group for group in found if isinstance(group, Group)]
    if not groups:
        return f"{len(found)} pair{'' if len(found) == 1 else 's'}"
    images = sum(len(group.images) for group in groups)
    return f"{len(groups)} group{'' if len(groups) == 1 else 's'} with {images} images"


def _of(found: Sequence[object], shown: Sequence[object]) -> str:
    return "" if len(shown) == len(found) else f", the first {len(shown)} shown"
