"""The log of changes that searches in memory follow."""

from __future__ import annotations

from typing import Any

import psycopg
import pytest

from retrieval_db import layouts
from retrieval_db.client import Database
from tests import example
from tests.search.sources import assert_same


class TestLog:
    """`image_changes` stays small, and anybody who may write images may note it."""

    def test_old_changes_make_way(self, db: Database) -> None:
        """Whoever has not seen them all reads everything again."""
        items = example.filled(db.connection, "uniform", 50, 64)
        assert_same(db, items.codes[0], k=60)
        db.connection.execute("DELETE FROM images WHERE id = 3")
        db.connection.execute(
            "INSERT INTO image_changes (transaction_id, encoder_id, image_ids)"
            " SELECT (pg_current_xact_id()::text)::bigint, 1, '{5}' FROM generate_series(1, 12000)"
        )
        self.next_one_tidies(db)
        db.connection.execute("UPDATE images SET label = 'tidied' WHERE id = 9")
        kept = db.connection.execute("SELECT count(*) FROM image_changes").fetchone()
        assert kept is not None
        assert kept[0] < 10
        assert len(assert_same(db, items.codes[0], k=60).hits) == 49
        held = db.memory_source()
        assert held.full_reads == 2
        db.connection.execute("DELETE FROM images WHERE id = 7")
        assert len(assert_same(db, items.codes[0], k=60).hits) == 48
        assert (held.full_reads, held.partial_reads) == (2, 1)

    def next_one_tidies(self, db: Database) -> None:
        """The number of the next transaction ends in 000."""
        number = db.connection.execute("SELECT pg_current_xact_id()::text::bigint").fetchone()
        assert number is not None
        for _ in range((999 - number[0]) % 1000):
            db.connection.execute("SELECT pg_current_xact_id()")

    def test_whoever_tidies_keeps_its_own_note(self, db: Database) -> None:
        items = example.filled(db.connection, "uniform", 50, 64)
        assert_same(db, items.codes[0], k=60)
        self.next_one_tidies(db)
        with db.connection.transaction():
            db.connection.execute("DELETE FROM images WHERE id = 3")
            db.connection.execute("DELETE FROM images WHERE id = 7")
        assert len(assert_same(db, items.codes[0], k=60).hits) == 48
        assert db.memory_source().full_reads == 1

    def test_whoever_tidies_is_in_no_tunes_way(
        self, db: Database, other: psycopg.Connection[Any]
    ) -> None:
        example.filled(db.connection, "uniform", 50, 64)
        self.next_one_tidies(db)
        with other.transaction():
            other.execute("DELETE FROM images WHERE id = 3")
            free = db.connection.execute("SELECT pg_try_advisory_lock(%s)", [layouts.LOCK])
            assert free.fetchone() == (True,)

    def test_changes_of_another_server(self, db: Database) -> None:
        """Restored rows bear transactions that this server is yet to come to."""
        items = example.filled(db.connection, "uniform", 50, 64)
        db.connection.execute(
            "INSERT INTO image_changes (transaction_id, encoder_id, image_ids)"
            " SELECT (pg_current_xact_id()::text)::bigint + i, 1, '{5}'"
            " FROM generate_series(1, 20) AS i"
        )
        assert_same(db, items.codes[0], k=60)
        for number in range(1, 10):
            db.connection.execute("DELETE FROM images WHERE id = %s", [number])
            assert len(assert_same(db, items.codes[0], k=60).hits) == 50 - number
        assert db.memory_source().full_reads == 1

    def test_a_writer_without_rights_on_the_log(self, db: Database, database_url: str) -> None:
        items = example.filled(db.connection, "uniform", 50, 64)
        row = db.connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        role = f"writer_of_{row[0]}"
        db.connection.execute(f"CREATE ROLE {role} LOGIN")
        db.connection.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON images TO {role}")
        assert_same(db, items.codes[0], k=60)
        with example.connect(database_url.replace("postgres@", f"{role}@", 1)) as writer:
            # A table of its own that is called like ours is not taken for it.
            writer.execute(
                "CREATE TEMPORARY TABLE image_changes"
                " (transaction_id bigint, id uuid, encoder_id integer, image_ids bigint[])"
            )
            writer.execute("DELETE FROM images WHERE id = 3")
            assert len(assert_same(db, items.codes[0], k=60).hits) == 49
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                writer.execute("SELECT * FROM public.image_changes")

    def test_two_writers_do_not_wait_for_each_other(
        self, db: Database, other: psycopg.Connection[Any]
    ) -> None:
        items = example.filled(db.connection, "uniform", 50, 64)
        other.autocommit = False
        other.execute("DELETE FROM images WHERE id = 3")
        db.connection.execute("SET lock_timeout = '1s'; DELETE FROM images WHERE id = 4")
        other.commit()
        assert len(assert_same(db, items.codes[0], k=60).hits) == 48
