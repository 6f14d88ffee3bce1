"""Where words go: tables and JSON on stdout, messages and progress on stderr."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TextIO

from rich import box
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from retrieval_db.errors import UsageError

Say = Callable[[str], None]

# As many skipped or missing files as one wants to read; the rest is counted.
LISTED = 20

# Columns of a console that is a file or a pipe: wider than any path.
UNFOLDED = 10_000


def check_writable(file: Path) -> None:
    """See before the work whether its result can be written.

    Raises:
        UsageError: it cannot.
    """
    if file.is_dir():
        raise UsageError(f"Cannot write {file}: it is a folder.")
    if file.exists() and not os.access(file, os.W_OK):
        raise UsageError(f"Cannot write {file}: it is write-protected.")
    target = Path(os.path.realpath(file))
    # A pipe or a device is written through, whatever its folder.
    if not (target.exists() and not target.is_file()) and not _is_open(target.parent):
        raise UsageError(f"Cannot write {file}: its folder is not there, or closed.")


def check_folder(folder: Path) -> None:
    """See before the work whether files can be written into a folder, which may be made for them.

    Raises:
        UsageError: they cannot.
    """
    there = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    if not there.is_dir():
        raise UsageError(f"Cannot write into {folder}: {there} is no folder.")
    if not _is_open(there):
        raise UsageError(f"Cannot write into {folder}: {there} is closed.")


def _is_open(folder: Path) -> bool:
    return os.access(folder, os.W_OK | os.X_OK)


class Screen(Console):
    """A console that leaves it to `failures` that its reader left; Rich would exit with 1."""

    def on_broken_pipe(self) -> NoReturn:
        raise BrokenPipeError


def console(stream: TextIO | None = None) -> Screen:
    """A console that folds nothing where a program, not a person, reads."""
    file = stream or sys.stdout
    return Screen(file=file, soft_wrap=True, width=None if file.isatty() else UNFOLDED)


def note(message: str) -> None:
    """A message for the user, on stderr."""
    print(message, file=sys.stderr, flush=True)


class Rate(ProgressColumn):
    """Items in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "–/s")


@contextmanager
def progress_bar(title: str, total: int | None) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and remaining time; yields what advances it.

    `total` is None where only the end will tell.
    """
    with Progress(*_columns(), console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps: progress.advance(task, steps)


@contextmanager
def progress_bars() -> Iterator[Callable[[str, int], Callable[[int], None]]]:
    """Bars one after the other; yields what opens one: (title, total) → what advances it."""
    with Progress(*_columns(), console=Console(stderr=True)) as progress:

        def bar(title: str, total: int) -> Callable[[int], None]:
            task = progress.add_task(title, total=total)
            return lambda steps: progress.advance(task, steps)

        yield bar


def _columns() -> tuple[ProgressColumn, ...]:
    return (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )


def size(number: int) -> str:
    """Bytes, readable."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def print_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table on stdout."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def note_all(lines: Sequence[str]) -> None:
    """As many lines as one wants to read, on stderr."""
    for line in lines[:LISTED]:
        note(f"  {line}")
    if len(lines) > LISTED:
        note(f"  … and {len(lines) - LISTED} more (--json lists them all)")


def print_json(value: Any) -> None:
    """A value with all that is in it, as JSON on stdout."""

    def plain(item: Any) -> Any:
        if isinstance(item, datetime):
            return item.isoformat()
        return str(item)

    print(json.dumps(value, indent=2, ensure_ascii=False, default=plain))
