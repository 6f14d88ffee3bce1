"""`retrieval-db migrate`, `tune` and `info`: the tables, and the indexes on them."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from retrieval_db import layouts, migration
from retrieval_db.database import resolve
from retrieval_db.errors import UsageError

from . import reports
from .options import DatabaseOption, JsonOption, opened
from .screen import note


def migrate(
    database: DatabaseOption = None,
    to: Annotated[
        str, typer.Option(help="A revision, `head`, or `base` (drops everything).")
    ] = "head",
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask before images are dropped.")
    ] = False,
) -> None:
    """Create the tables and functions, or bring them up to date."""
    if sql:
        print(migration.offline_sql(to), end="")
        return
    target = resolve(database, report=note)
    note(f"Database: {target}")
    # The ways down to other revisions keep all rows.
    if to == "base" and not yes:
        _confirm_drop(*migration.holdings(target.url))
    reached = migration.move(target.url, to)
    cure = " (needs pgvector 0.7 or later)" if reached.current else ""
    fine = f"at {reached.features}" if reached.features else f"absent{cure}"
    note(f"Core at revision {reached.core or 'base'}; fine stage {fine}.")


def tune(
    encoder: Annotated[
        str | None, typer.Argument(metavar="[ENCODER]", help="Default: every encoder.")
    ] = None,
    database: DatabaseOption = None,
    widths: Annotated[
        str | None,
        typer.Option(help="Bits of each chunk, with commas; default: to fit the rows."),
    ] = None,
    covering: Annotated[
        bool | None,
        typer.Option(
            "--covering/--compact",
            help="Indexes that hold whole codes: fast, 67 bytes a row and chunk; or only where "
            "the rows are: about 11 bytes.",
        ),
    ] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Build bucket indexes that fit the rows, while searches go on; drop the old ones."""
    with opened(database, writing=True) as db:
        chosen = _chunks(widths)
        for stored in [db.encoder(encoder)] if encoder else db.encoders():
            if sql:
                reports.statements(
                    layouts.tune_statements(db.connection, stored.name, chosen, covering=covering)
                )
            else:
                reports.tuned(db.tune(stored.name, widths=chosen, covering=covering, report=note))


def info(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show where the database is, its versions, encoders, counts, sizes and indexes."""
    with opened(database) as db:
        reports.info(db.info(), as_json=as_json)


def _confirm_drop(encoders: int, images: int) -> None:
    """Ask whether what is stored may go.

    Raises:
        UsageError: there is nobody to ask.
        Abort: it may not.
    """
    if not encoders and not images:
        return
    held = reports.counted(encoders, "encoder"), reports.counted(images, "image")
    lost = " and the codes of ".join(held)
    if not sys.stdin.isatty():
        raise UsageError(f"--to base drops {lost}: add --yes if that is meant.")
    typer.confirm(f"Drop {lost}?", abort=True, err=True)


def _chunks(text: str | None) -> list[int] | None:
    """Bits of chunks, with commas between.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--widths is a list such as 22,22,21,21,21,21; not {text!r}.") from error
