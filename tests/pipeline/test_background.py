"""Codes written in the background: all of them, in time, and never too many on their way."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import numpy as np
import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.database import open_connection
from retrieval_db.errors import WrongWidth
from retrieval_db.interchange import CodeSet
from retrieval_db.pipeline import Stage, background
from retrieval_db.pipeline.background import BackgroundWriter


@pytest.fixture
def writer(database_url: str) -> Iterator[BackgroundWriter]:
    with retrieval_db.connect(database_url) as db:
        stored = db.add_encoder(encoders_of_photos.create("phash64"))
        yield BackgroundWriter(db.connection, stored, Stage("write"))


def some_codes(first: int, count: int, bits: int = 64) -> CodeSet:
    return CodeSet(
        np.zeros((count, bits // 8), dtype=np.uint8),
        bits,
        [f"/{first + row:06}.png" for row in range(count)],
        labels=[None] * count,
        metadata=[None] * count,
        content_sha256=np.zeros((count, 32), dtype=np.uint8),
    )


def stored_rows(url: str) -> int:
    with open_connection(url) as connection:
        row = connection.execute("SELECT count(*) FROM images").fetchone()
        assert row is not None
        return int(row[0])


class TestWriting:
    """Codes are written behind the encoder's back, and never too many are on their way."""

    def test_all_is_written_in_the_end(self, writer: BackgroundWriter, database_url: str) -> None:
        with writer:
            for first in range(0, 5_000, 50):
                writer.put(some_codes(first, 50))
        assert (writer.inserted, writer.updated) == (5_000, 0)
        assert stored_rows(database_url) == 5_000

    def test_few_rows_do_not_wait_for_more(
        self, writer: BackgroundWriter, database_url: str
    ) -> None:
        with writer:
            writer.put(some_codes(0, 10))
            deadline = time.monotonic() + 30
            while stored_rows(database_url) != 10:
                assert time.monotonic() < deadline
                time.sleep(0.1)

    def test_the_encoder_waits_for_a_slow_database(
        self, writer: BackgroundWriter, database_url: str
    ) -> None:
        handed = 0

        def hand_over() -> None:
            nonlocal handed
            for first in range(0, 3 * background.IN_FLIGHT, 64):
                writer.put(some_codes(first, 64))
                handed += 64

        with open_connection(database_url, autocommit=False) as blocking, writer:
            blocking.execute("LOCK images IN SHARE MODE")
            encoder = threading.Thread(target=hand_over)
            encoder.start()
            encoder.join(3)
            assert encoder.is_alive()
            assert handed == background.IN_FLIGHT
            blocking.rollback()
            encoder.join(60)
        assert writer.inserted == 3 * background.IN_FLIGHT

    def test_giving_up_ends_a_statement_that_hangs(
        self, writer: BackgroundWriter, database_url: str
    ) -> None:
        def interrupted() -> None:
            with writer:
                writer.put(some_codes(0, background.ENOUGH))
                time.sleep(0.5)
                raise KeyboardInterrupt

        started = time.monotonic()
        with open_connection(database_url, autocommit=False) as blocking:
            blocking.execute("LOCK images IN SHARE MODE")
            with pytest.raises(KeyboardInterrupt):
                interrupted()
        assert time.monotonic() - started < 20
        assert stored_rows(database_url) == 0

    def test_an_error_reaches_the_encoder(self, writer: BackgroundWriter) -> None:
        def put_them() -> None:
            with writer:
                for first in range(0, 10 * background.IN_FLIGHT, 64):
                    writer.put(some_codes(first, 64, bits=128))

        with pytest.raises(WrongWidth, match="128 bits"):
            put_them()
