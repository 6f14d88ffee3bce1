"""Printing: tables for people, JSON and CSV for machines; messages go to stderr."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

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

from retrieval_db.database import Connection, Target
from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.indexing import IndexReport
from retrieval_db.info import Info
from retrieval_db.interchange import replacing
from retrieval_db.loading import LoadReport
from retrieval_db.presentation import Answer, write_page, write_sheet
from retrieval_db.server import ServerStatus

# As many skipped or missing files as one wants to read; the rest is counted.
LISTED = 20

# Columns of a console that is a file or a pipe: wider than any path.
UNFOLDED = 10_000


class Format(Enum):
    """How answers are printed."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    CSV = "csv"

    @classmethod
    def chosen(cls, *, json: bool, jsonl: bool, csv: bool) -> Format:
        """The one that was asked for; a table if none was.

        Raises:
            UsageError: more than one was.
        """
        if json + jsonl + csv > 1:
            raise UsageError("Choose one of --json, --jsonl and --csv.")
        return cls.JSON if json else cls.JSONL if jsonl else cls.CSV if csv else cls.TABLE


def check_writable(file: Path) -> None:
    """See before the work whether its result can be written.

    Raises:
        UsageError: it cannot.
    """
    if file.is_dir() or not os.access(file.parent, os.W_OK | os.X_OK):
        reason = "it is a folder" if file.is_dir() else "its folder is not there, or closed"
        raise UsageError(f"Cannot write {file}: {reason}.")


def console(stream: TextIO | None = None) -> Console:
    """A console that folds nothing where a program, not a person, reads."""
    file = stream or sys.stdout
    return Console(file=file, soft_wrap=True, width=None if file.isatty() else UNFOLDED)


def note(message: str) -> None:
    """A message for the user, on stderr."""
    print(message, file=sys.stderr, flush=True)


class Rate(ProgressColumn):
    """Items in a second."""

    def render(self, task: Task) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "–/s")


@contextmanager
def progress_bar(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr with rate and remaining time; yields what advances it."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(title, total=total)
        yield lambda steps: progress.advance(task, steps)


def answers(
    found: Iterable[Answer],
    style: Format,
    *,
    out: Path | None,
    html: Path | None,
    sheet: Path | None,
    explain: bool,
) -> None:
    """Print answers as they come, and write the page and the sheet at the end."""
    kept = []
    with _stream(out) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        if style is Format.CSV:
            writer.writerow(CSV_COLUMNS)
        for answer in found:
            if style is Format.TABLE:
                _answer_table(answer, stream, explain)
            elif style is Format.CSV:
                writer.writerows(_csv_rows(answer))
            elif style is Format.JSONL:
                print(json.dumps(as_json(answer), ensure_ascii=False), file=stream, flush=True)
            if html or sheet or style is Format.JSON:
                kept.append(answer)
        if style is Format.JSON:
            print(json.dumps([as_json(a) for a in kept], indent=2, ensure_ascii=False), file=stream)
    if html:
        write_page(kept, html)
        note(f"Wrote {html}")
    if sheet:
        write_sheet(kept, sheet)
        note(f"Wrote {sheet}")


CSV_COLUMNS = (
    "query",
    "rank",
    "image_id",
    "path",
    "label",
    "distance",
    "feature_distance",
    "exact",
    "guaranteed_radius",
)


def as_json(answer: Answer) -> dict[str, Any]:
    """An answer as plain values."""
    return {"query": answer.query, "words": list(answer.words), **answer.result.as_dict()}


def _csv_rows(answer: Answer) -> Iterator[list[object]]:
    result = answer.result
    for hit in result.hits:
        yield [answer.query, *dataclasses.astuple(hit), result.exact, result.guaranteed_radius]


def _answer_table(answer: Answer, stream: TextIO, explain: bool) -> None:
    result = answer.result
    screen = console(stream)
    table = Table(box=box.SIMPLE_HEAD, title=Text(answer.query), title_justify="left")
    fine = result.stage == "fine"
    table.add_column("rank", justify="right")
    table.add_column("distance", justify="right")
    if fine:
        table.add_column("feature", justify="right")
    table.add_column("id", justify="right")
    table.add_column("label")
    table.add_column("path", overflow="fold")
    for hit in result.hits:
        row = [str(hit.rank), str(hit.distance)]
        if fine:
            row.append(f"{hit.feature_distance:.4f}")
        table.add_row(*row, str(hit.image_id), Text(hit.label or ""), Text(hit.path))
    screen.print(table)
    screen.print(Text(summary(answer)), style="dim", highlight=False)
    if explain:
        screen.print(Text(explanation(answer)), style="dim", highlight=False)


def summary(answer: Answer) -> str:
    """How much was found, and what is guaranteed about it."""
    result = answer.result
    number = len(result.hits)
    return (
        f"{number} image{'' if number == 1 else 's'} of {result.encoder}, {answer.stage}, "
        f"{answer.certificate}, {result.milliseconds:.1f} ms"
    )


def explanation(answer: Answer) -> str:
    """How the rows were found."""
    result = answer.result
    if result.plan is None:
        return "The coarse stage explains itself with --stage coarse."
    return (
        f"plan {result.plan}; {result.shells} shells, {result.probes} probes, "
        f"{'unknown' if result.candidates is None else result.candidates} candidates; "
        f"guaranteed radius {result.guaranteed_radius}"
    )


def index_report(report: IndexReport, *, as_json: bool, prune: bool) -> None:
    """Say what an index run did."""
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    rate = report.encoded / report.seconds if report.seconds else 0.0
    print(
        f"{report.encoder}: {report.found} image files, {report.inserted} new, "
        f"{report.updated} changed, {report.unchanged} unchanged, {len(report.skipped)} skipped"
        + (f", {report.relabelled} relabelled" if report.relabelled else "")
        + f" in {report.seconds:.1f} s ({rate:.0f} images/s)"
    )
    if report.moved_from is not None:
        note(f"The photos have been moved: the root was {report.moved_from}.")
    skipped(report.skipped)
    if report.gone:
        done = f"{report.pruned} rows deleted" if prune else "--prune deletes their rows"
        note(f"{len(report.gone)} files are gone ({done}):")
        _list(report.gone)


def skipped(files: Sequence[tuple[str, str]]) -> None:
    """List the files that could not be read."""
    if files:
        note(f"{len(files)} files skipped:")
        _list([f"{path}: {reason}" for path, reason in files])


def load_report(report: LoadReport, *, as_json: bool) -> None:
    """Say what a load did."""
    if as_json:
        _print_json(dataclasses.asdict(report))
        return
    print(
        f"{report.encoder}: {report.inserted} new, {report.updated} updated "
        f"in {report.seconds:.1f} s"
    )


def info(found: Info, *, as_json: bool) -> None:
    """Show a database."""
    if as_json:
        _print_json(dataclasses.asdict(found))
        return
    print(f"Database    {found.target}, schema {found.schema}")
    print(f"PostgreSQL  {found.postgresql}, pgvector {found.pgvector or 'not installed'}")
    print(f"Revisions   core {found.revisions.core}, fine stage {found.revisions.features or '–'}")
    encoders(found.encoders, as_json=False)
    _table(
        ("relation", "kind", "size"),
        [
            (
                relation.name + ("" if relation.valid else " (invalid)"),
                "index" if relation.is_index else "table with its indexes",
                size(relation.bytes),
            )
            for relation in found.relations
        ],
    )


def encoders(stored: Sequence[tuple[StoredEncoder, int]], *, as_json: bool) -> None:
    """List encoders with their numbers of images."""
    if as_json:
        _print_json([dataclasses.asdict(one) | {"images": count} for one, count in stored])
        return
    _table(
        ("encoder", "bits", "feature", "images", "fingerprint", "root"),
        [
            (
                one.name,
                one.bits,
                one.feature_dim or "–",
                count,
                one.fingerprint[:12],
                one.root or "",
            )
            for one, count in stored
        ],
    )


def encoder(stored: StoredEncoder) -> None:
    """Show one encoder, as JSON."""
    _print_json(dataclasses.asdict(stored))


def server_status(status: ServerStatus, *, as_json: bool) -> None:
    """Show the embedded server."""
    if as_json:
        _print_json(dataclasses.asdict(status))
        return
    state = f"running (pid {status.pid})" if status.running else "stopped"
    print(f"Embedded PostgreSQL {status.version}: {state}")
    print(f"Data  {status.data_dir}, {size(status.size)}")
    print(f"Log   {status.log}")


def external_status(target: Target, connection: Connection, *, as_json: bool) -> None:
    """Show an external server."""
    row = connection.execute("SELECT current_setting('server_version')").fetchone()
    version = "" if row is None else str(row[0])
    if as_json:
        _print_json({"running": True, "target": str(target), "version": version})
        return
    print(f"PostgreSQL {version}: running")
    print(f"Database  {target}")


def size(number: int) -> str:
    """Bytes, readable."""
    amount = float(number)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if amount < 1024:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1024
    return f"{amount:.1f} TiB"


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in head:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console().print(table)


def _list(lines: Sequence[str]) -> None:
    for line in lines[:LISTED]:
        note(f"  {line}")
    if len(lines) > LISTED:
        note(f"  … and {len(lines) - LISTED} more (--json lists them all)")


def _print_json(value: Any) -> None:
    def plain(item: Any) -> Any:
        if isinstance(item, datetime):
            return item.isoformat()
        return str(item)

    print(json.dumps(value, indent=2, ensure_ascii=False, default=plain))


@contextmanager
def _stream(out: Path | None) -> Iterator[TextIO]:
    """Stdout, or a file that is there whole or not at all."""
    if out is None:
        yield sys.stdout
        return
    buffer = io.StringIO()
    yield buffer
    with replacing(out) as temporary:
        temporary.write_text(buffer.getvalue(), encoding="utf-8")
    note(f"Wrote {out}")
