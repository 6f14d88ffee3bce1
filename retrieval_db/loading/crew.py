"""Several writers of one load, side by side, with the result of one after the other."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo

from ..database import Connection, in_transaction, open_connection
from ..errors import ConnectionFailed
from ..interchange import CodeSet
from ..sql import queries

SQL = queries("loading")

Ids = NDArray[np.int64]

# A server that writes eight batches at once waits for its disk.
MOST = 8


class BatchWriter(Protocol):
    """Writes batches, each in a transaction of its own."""

    def reserve(self, rows: int) -> Ids:
        """Fresh ids for so many rows, int64 [rows], rising."""

    def write(self, batch: CodeSet, ids: Ids | None = None) -> tuple[int, int]:
        """Write a batch; how many rows were inserted, and how many updated."""


@contextmanager
def more_connections(connection: Connection, count: int) -> Iterator[list[Connection]]:
    """Up to `count` further connections like this one: same server, role and search path.

    Fewer where the server has no more to give. None inside a transaction, what it wrote could not
    be seen; and none for a role that may not draw ids, which `images` does by itself.
    """
    with ExitStack() as stack:
        opened: list[Connection] = []
        idle = not in_transaction(connection)
        if count > 0 and idle and _may_draw_ids(connection):
            with suppress(ConnectionFailed):
                for _ in range(count):
                    opened.append(stack.enter_context(another(connection)))
        yield opened


def another(connection: Connection) -> Connection:
    """A further connection like this one: same server, role and search path.

    Raises:
        ConnectionFailed: the server has no more to give.
    """
    settings = connection.execute(SQL["session"]).fetchone()
    info = connection.info
    further = open_connection(make_conninfo(info.dsn, password=info.password or None))
    further.execute(SQL["like_session"], settings)
    return further


def _may_draw_ids(connection: Connection) -> bool:
    row = connection.execute(SQL["may_draw_ids"]).fetchone()
    return row is not None and bool(row[0])


def workers() -> int:
    """How many writers a large load has: the cores of this machine, within reason."""
    return min(os.cpu_count() or 1, MOST)


def write_all(
    writers: Sequence[BatchWriter],
    batches: Iterable[CodeSet],
    progress: Callable[[int], None] = lambda rows: None,
) -> tuple[int, int]:
    """Write every batch, as many at a time as there are writers.

    Ids follow the order of the rows, and batches that share a path are written one after the
    other, so that the last of equal paths counts: all as with one writer. After an error, or an
    interruption, the batches under way are finished and no further one is begun.

    Returns:
        How many rows were inserted, and how many updated.
    """
    if len(writers) == 1:
        inserted = updated = 0
        for batch in batches:
            new, old = writers[0].write(batch)
            inserted, updated = inserted + new, updated + old
            progress(len(batch))
        return inserted, updated

    source = enumerate(batches)
    turn = threading.Condition()
    under_way: dict[int, frozenset[str]] = {}
    stopped = False

    def take(writer: BatchWriter) -> tuple[int, CodeSet, Ids] | None:
        """The next batch, once no earlier one that shares a path is under way."""
        with turn:
            taken = None if stopped else next(source, None)
            if taken is None:
                return None
            number, batch = taken
            ids = writer.reserve(len(batch))
            paths = frozenset(batch.paths)
            under_way[number] = paths
            turn.wait_for(
                lambda: all(
                    paths.isdisjoint(others)
                    for earlier, others in under_way.items()
                    if earlier < number
                )
            )
        return number, batch, ids

    def work(writer: BatchWriter) -> tuple[int, int]:
        nonlocal stopped
        inserted = updated = 0
        try:
            while (taken := take(writer)) is not None:
                number, batch, ids = taken
                try:
                    new, old = writer.write(batch, ids)
                finally:
                    with turn:
                        del under_way[number]
                        turn.notify_all()
                inserted, updated = inserted + new, updated + old
                with turn:
                    progress(len(batch))
        except BaseException:
            stopped = True
            raise
        return inserted, updated

    with ThreadPoolExecutor(len(writers)) as pool:
        tasks = [pool.submit(work, writer) for writer in writers]
        try:
            counts = [task.result() for task in tasks]
        finally:
            stopped = True
    return sum(new for new, _ in counts), sum(old for _, old in counts)
