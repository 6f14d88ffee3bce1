"""Layouts: the chunks that bucket indexes are on, chosen, built and replaced.

Which layout an encoder has decides how fast its answers are found, never which they are.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass

import psycopg

from . import arguments
from .database import Connection, in_transaction, translated
from .encoders import StoredEncoder
from .errors import DatabaseError, PermissionDenied, UsageError
from .sql import queries

SQL = queries("layouts")

# Below, a scan takes a few milliseconds, and building an index reads all rows of the table.
TUNE_FROM = 20_000
# A load of so many rows, and half as many as there are, is faster without bucket indexes in its
# way: keeping six of them up to date takes longer than building them anew.
BULK = 100_000

# One tune at a time in a database.
LOCK = 7_216_305_922


class _Busy(DatabaseError):
    """Another `tune` is running on this database; wait for it."""


@dataclass(frozen=True)
class Layout:
    """The layout that serves an encoder.

    Attributes:
        id: its key in `layouts`, and the number in the names of its indexes.
        shared: whether it serves every encoder of the width that has none of its own.
        widths: bits of each chunk.
    """

    id: int
    shared: bool
    widths: tuple[int, ...]


@dataclass(frozen=True)
class TuneReport:
    """What `tune` did.

    Attributes:
        encoder: whose layout it is.
        layout: the new one.
        seconds: wall time.
    """

    encoder: str
    layout: Layout
    seconds: float


def layout_of(connection: Connection, encoder: StoredEncoder) -> Layout | None:
    """The layout that serves an encoder; None where there is none, and searches scan."""
    row = connection.execute(SQL["of_encoder"], [encoder.id]).fetchone()
    return None if row is None else Layout(row[0], row[1], tuple(row[2]))


def tune_statements(
    connection: Connection,
    encoder: str,
    widths: Sequence[int] | None = None,
    *,
    covering: bool | None = None,
    online: bool = True,
) -> list[str]:
    """The SQL that `tune` runs, to be run one by one outside a transaction."""
    with translated(connection):
        rows = connection.execute(
            SQL["tune_statements"],
            [
                encoder,
                None if widths is None else [arguments.whole("a width", each) for each in widths],
                online,
                covering,
            ],
        ).fetchall()
    return [str(row[0]) for row in rows]


def tune(
    connection: Connection,
    encoder: StoredEncoder,
    widths: Sequence[int] | None = None,
    *,
    covering: bool | None = None,
    online: bool = True,
    report: Callable[[str], None] = lambda statement: None,
) -> TuneReport:
    """Give an encoder a layout that fits its rows: build, switch, drop the old.

    Searches go on, and stay exact, all the while. What an interrupted `tune` left is dropped
    by the next one.

    Args:
        connection: in autocommit mode, of the tables' owner.
        encoder: whose rows are counted.
        widths: bits of each chunk; by default what fits the number of rows.
        covering: whether the indexes hold the whole code (67 bytes a row and chunk), or only
            where the rows are (about 11; each row met is then fetched); as it is by default.
        online: build without blocking writers, which reads the table twice.
        report: told each statement before it runs.

    Raises:
        DatabaseError: another `tune` is running.
        PermissionDenied: the role does not own the table.
        UsageError: impossible widths, or within a transaction.
    """
    if in_transaction(connection):
        raise UsageError("`tune` builds indexes beside running writers, outside of transactions.")
    started = time.perf_counter()
    with translated(connection), _alone(connection):
        for statement in tune_statements(
            connection, encoder.name, widths, covering=covering, online=online
        ):
            report(statement.partition("\n")[0] or "CREATE FUNCTION")
            # Made by our own SQL function from numbers and quoted names.
            connection.execute(statement)
        layout = layout_of(connection, encoder)
        warm(connection, encoder, report)
    assert layout is not None
    return TuneReport(encoder.name, layout, time.perf_counter() - started)


def warm(
    connection: Connection,
    encoder: StoredEncoder,
    report: Callable[[str], None] = lambda statement: None,
) -> None:
    """Read an encoder's new indexes into the server's cache, where it has room for them.

    Building leaves them outside of it; then each search brings in the pages that it probes, and
    is several times slower. An index is read without its rows, so the table
    has to be vacuumed before.

    Args:
        connection: in autocommit mode.
        encoder: with a layout of its own; without one nothing is read.
        report: told each statement before it runs.
    """
    with connection.transaction():
        for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
            connection.execute(SQL["off"], [setting])
        for (statement,) in connection.execute(SQL["read_indexes"], [encoder.id]).fetchall():
            report(statement)
            connection.execute(statement)


def drop_leftovers(connection: Connection) -> None:
    """Drop the indexes and functions that no layout owns, as after removing an encoder.

    A role that may not leaves them to the next `tune`.
    """
    with suppress(psycopg.errors.InsufficientPrivilege):
        for (statement,) in connection.execute(SQL["leftovers"]).fetchall():
            connection.execute(statement)


def make_way(connection: Connection, encoder: StoredEncoder, rows: int) -> None:
    """Before a bulk load of `rows` rows: drop bucket indexes that would be rebuilt after it.

    Those of the width stay while rows of other encoders lean on them.
    """
    if rows < BULK:
        return
    there = _count(connection, encoder)
    layout = layout_of(connection, encoder)
    if layout is None or 2 * rows < there:
        return
    if layout.shared:
        values = {"bits": encoder.bits, "id": encoder.id}
        leaning = connection.execute(SQL["other_rows_of_width"], values).fetchone()
        if leaning is None or leaning[0]:
            return
    # All or nothing: whoever may only write rows loads them with the indexes in place.
    with suppress(psycopg.errors.InsufficientPrivilege), connection.transaction():
        for (statement,) in connection.execute(SQL["drop_statements"], [layout.id]).fetchall():
            connection.execute(statement)


def settle(connection: Connection, encoder: StoredEncoder) -> bool:
    """After a load: tune if the rows have outgrown the layout.

    Returns:
        Whether there is a new layout.
    """
    rows = _count(connection, encoder)
    if rows < TUNE_FROM:
        return False
    layout = layout_of(connection, encoder)
    wanted = connection.execute(SQL["wanted_chunks"], [encoder.bits, rows]).fetchone()
    if layout and not layout.shared and wanted and abs(len(layout.widths) - wanted[0]) < 2:
        return False
    # What fails in a caller's transaction would end it.
    whole = connection.transaction() if in_transaction(connection) else nullcontext()
    try:
        with _alone(connection), whole:
            for statement in tune_statements(connection, encoder.name, online=False):
                connection.execute(statement)
    except (psycopg.errors.InsufficientPrivilege, PermissionDenied, _Busy):
        # Not the owner, or somebody else is at it: the answers are right all the same.
        return False
    return True


def _count(connection: Connection, encoder: StoredEncoder) -> int:
    row = connection.execute(SQL["rows_of_encoder"], [encoder.id]).fetchone()
    return 0 if row is None else int(row[0])


@contextmanager
def _alone(connection: Connection) -> Iterator[None]:
    row = connection.execute(SQL["lock"], [LOCK]).fetchone()
    if row is None or not row[0]:
        raise _Busy
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute(SQL["unlock"], [LOCK])
