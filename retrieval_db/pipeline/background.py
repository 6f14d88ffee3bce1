"""Writing while the next images are encoded: a thread with a connection of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType

import psycopg

from ..database import Connection, translated
from ..encoders import StoredEncoder
from ..interchange import CodeSet, joined
from ..loading import Writer, crew
from .profiling import Stage

# Images that are encoded and not yet committed: what an interruption loses at most. Half of
# them are being written while the other half comes.
IN_FLIGHT = 2_048
# A transaction begins when it is worth it, or when so many seconds have passed.
ENOUGH = IN_FLIGHT // 2
PATIENCE = 1.0

# After giving up, a server that does not answer is left alone after so many seconds.
LONG = 20.0


class BackgroundWriter:
    """Writes codes as they come, many in a transaction; use it in a `with` statement.

    It has a connection of its own, like the one that is given.

    Leaving it normally writes what is left; leaving it with an exception gives up what is
    not committed, the running transaction included.

    Attributes:
        inserted, updated: rows so far; whole when it has been left.
    """

    def __init__(self, connection: Connection, encoder: StoredEncoder, stage: Stage) -> None:
        self.inserted = 0
        self.updated = 0
        self._like = connection
        self._encoder = encoder
        self._stage = stage
        self._changed = threading.Condition()
        self._waiting: list[CodeSet] = []
        self._since = 0.0
        self._in_flight = 0
        self._ending = False
        self._giving_up = False
        self._error: BaseException | None = None
        self._connection: Connection | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)

    def __enter__(self) -> BackgroundWriter:
        self._connection = crew.another(self._like)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        assert self._connection is not None
        try:
            self._end(give_up=error is not None)
        except BaseException:
            # Ctrl-C while the last rows were written.
            self._end(give_up=True)
            raise
        finally:
            if self._ended.is_set():
                self._connection.close()
        if error is None:
            self._check()

    def put(self, codes: CodeSet) -> None:
        """Hand codes over; waits while too many are under way.

        Raises:
            RetrievalError: what went wrong in writing earlier ones.
        """
        with self._changed:
            while self._in_flight + len(codes) > IN_FLIGHT and self._in_flight:
                self._check()
                # With a timeout, so that Ctrl-C is noticed.
                self._changed.wait(0.5)
            self._check()
            if not self._waiting:
                self._since = time.monotonic()
            self._waiting.append(codes)
            self._in_flight += len(codes)
            self._changed.notify_all()

    def _check(self) -> None:
        if self._error is not None:
            raise self._error

    def _end(self, *, give_up: bool) -> None:
        with self._changed:
            self._ending = True
            self._giving_up = give_up
            self._changed.notify_all()
        deadline = time.monotonic() + LONG
        # Not Thread.join: interrupted by Ctrl-C it takes the thread for dead (bpo-45274).
        while not self._ended.is_set() and not (give_up and time.monotonic() > deadline):
            if give_up:
                self._cancel()
            self._ended.wait(0.2)

    def _cancel(self) -> None:
        """End the statement that is running, or waiting for a lock."""
        assert self._connection is not None
        # Where the server is gone, the statement is as well.
        with suppress(psycopg.Error):
            self._connection.cancel_safe(timeout=5)

    def _run(self) -> None:
        try:
            assert self._connection is not None
            with translated(self._connection):
                writer = Writer(self._connection, self._encoder)
                while batch := self._next():
                    rows = joined(batch)
                    with self._stage.waiting(len(rows)):
                        inserted, updated = writer.write(rows)
                    with self._changed:
                        self.inserted += inserted
                        self.updated += updated
                        self._in_flight -= len(rows)
                        self._changed.notify_all()
        except BaseException as error:
            with self._changed:
                self._error = error
                self._changed.notify_all()
        finally:
            self._ended.set()

    def _next(self) -> Sequence[CodeSet]:
        """The codes of the next transaction; none when there will be no more."""
        with self._changed:
            while not self._ready():
                left = self._since + PATIENCE - time.monotonic() if self._waiting else None
                self._changed.wait(left)
            if self._giving_up:
                return ()
            batch, self._waiting = self._waiting, []
            return batch

    def _ready(self) -> bool:
        if self._ending:
            return True
        if not self._waiting:
            return False
        rows = sum(map(len, self._waiting))
        return rows >= ENOUGH or time.monotonic() >= self._since + PATIENCE
