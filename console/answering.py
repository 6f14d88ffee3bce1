"""Answers, printed: tables for people, JSON and CSV for machines, pages and sheets."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import Any, TextIO

from rich import box
from rich.table import Table
from rich.text import Text

from retrieval_db.errors import UsageError
from retrieval_db.interchange import replacing
from retrieval_db.presentation import Answer, write_page, write_sheet

from .screen import console, note

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


def show(
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
        for number, answer in enumerate(found):
            if style is Format.TABLE:
                _answer_table(answer, stream, explain)
            elif style is Format.CSV:
                # Not before there is an answer: a query that is not there leaves nothing.
                if not number:
                    writer.writerow(CSV_COLUMNS)
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
            away = hit.feature_distance
            row.append("none" if away is None else f"{away:.4f}")
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
        f"plan {result.plan} in {'memory' if result.source == 'memory' else 'the database'}; "
        f"{result.shells} shells, {result.probes} probes, "
        f"{'unknown' if result.candidates is None else result.candidates} candidates; "
        f"guaranteed radius {result.guaranteed_radius}"
    )


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
