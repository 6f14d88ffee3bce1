"""Searches in memory after, and while, rows change: never an answer of stale codes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import psycopg
import pytest

import retrieval_db
from retrieval_db import Query, loading, migration
from retrieval_db.client import Database
from retrieval_db.errors import DatabaseError, UnknownEncoder
from retrieval_db.search import MemorySource, flat
from tests import example
from tests.search.sources import assert_same


class TestFreshness:
    """Whatever changes, and however, the next answer knows of it once it is committed."""

    @pytest.fixture
    def items(self, db: Database) -> retrieval_db.CodeSet:
        items = example.filled(db.connection, "clustered", 400, 64)
        self.same(db)
        return items

    def same(self, db: Database) -> MemorySource:
        for query in example.random_codes("clustered", 4, 64):
            assert_same(db, query, k=50)
            assert_same(db, query, k=50, labels=["label 3"])
        return db.memory_source()

    def test_nothing_is_read_again_for_nothing(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        other.execute("CREATE TABLE elsewhere (id int); INSERT INTO elsewhere VALUES (1)")
        other.execute("VACUUM FULL images")
        other.execute("UPDATE images SET label = 'x' WHERE id < 0")
        example.filled(other, "uniform", 2000, 64, "another encoder")
        db.search(items.codes[0], encoder="example", source="memory")
        held = db.memory_source("example")
        assert (held.full_reads, held.partial_reads) == (1, 0)

    CHANGES = (
        "UPDATE images SET code_1 = 7, code_2 = 9 WHERE id % 40 = 3",
        "UPDATE images SET label = 'label 3' WHERE id % 30 = 4",
        "UPDATE images SET label = 'new label' WHERE id % 30 = 5",
        "UPDATE images SET path = 'moved/' || path WHERE id = 17",
        "DELETE FROM images WHERE id % 50 = 7",
        "INSERT INTO images (encoder_id, bits, code_1, code_2, code_3, code_4, path, label)"
        " SELECT encoder_id, bits, code_1, code_2, code_3, code_4, path || 'x', label"
        " FROM images WHERE id % 25 = 9",
        "INSERT INTO images (id, encoder_id, bits, code_1, code_2, code_3, code_4, path)"
        " SELECT 7, encoder_id, bits, code_1, code_2, code_3, code_4, 'again'"
        " FROM images WHERE id = 10",
    )

    def test_small_changes_are_fetched_alone(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        for number, change in enumerate(self.CHANGES, start=1):
            assert other.execute(change).rowcount > 0
            held = self.same(db)
            assert (held.full_reads, held.partial_reads) == (1, number)
            assert len(held) == db.info().encoders[0][1]

    @pytest.mark.parametrize(
        "change",
        [
            "UPDATE images SET code_1 = code_2",
            "DELETE FROM images",
            "TRUNCATE images CASCADE",
            "UPDATE images SET id = id + 1000 WHERE id = 3",
            "SET session_replication_role = replica; DELETE FROM images WHERE id % 3 = 0",
        ],
    )
    def test_large_and_odd_changes(
        self,
        db: Database,
        items: retrieval_db.CodeSet,
        other: psycopg.Connection[Any],
        change: str,
    ) -> None:
        other.execute(change)
        self.same(db)

    def test_bulk_loads(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        more = example.code_set(example.random_codes("uniform", 1200, 64, seed=4), 64)
        loading.load(other, replace(more, paths=[f"more/{path}" for path in more.paths]))
        self.same(db)
        loading.load(other, replace(items, codes=~items.codes))
        self.same(db)

    def test_a_change_counts_once_it_is_committed(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        """Also one that began before the codes were read, and committed after later ones."""
        query = items.codes[0]
        other.autocommit = False
        other.execute("DELETE FROM images WHERE path = 'example/0.jpg'")
        db.memory_source(index=flat.NumPyIndex)
        assert_same(db, query)
        db.connection.execute("UPDATE images SET label = 'y' WHERE id = 77")
        assert assert_same(db, query).hits[0].path == "example/0.jpg"
        other.commit()
        assert assert_same(db, query).hits[0].path != "example/0.jpg"
        other.execute("DELETE FROM images WHERE id < 200")
        other.rollback()
        self.same(db)

    def test_savepoints(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        with other.transaction():
            with other.transaction(force_rollback=True):
                other.execute("DELETE FROM images WHERE id < 100")
            with other.transaction():
                other.execute("DELETE FROM images WHERE id = 150")
        held = self.same(db)
        assert (held.full_reads, held.partial_reads) == (1, 1)

    def test_own_changes_that_are_rolled_back(
        self, db: Database, items: retrieval_db.CodeSet
    ) -> None:
        with db.connection.transaction(force_rollback=True):
            db.connection.execute("DELETE FROM images WHERE id < 100")
            self.same(db)
            with db.connection.transaction(force_rollback=True):
                db.connection.execute("DELETE FROM images WHERE id = 150")
                self.same(db)
            self.same(db)
        assert len(self.same(db)) == 400

    def test_an_older_snapshot(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        with db.connection.transaction():
            db.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            self.same(db)
            other.execute("DELETE FROM images WHERE id < 100")
            assert len(self.same(db)) == 400
        assert len(self.same(db)) == 301

    def test_changes_under_a_search(
        self,
        db: Database,
        items: retrieval_db.CodeSet,
        other: psycopg.Connection[Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A writer who is faster than every search does not keep it from ending."""
        victims = iter(range(1, 400))

        class Disturbed(flat.NumPyIndex):
            def nearest(self, *given: Any) -> Any:
                found = super().nearest(*given)
                other.execute("DELETE FROM images WHERE id = %s", [next(victims)])
                return found

        held = db.memory_source(index=Disturbed)
        assert len(db.search(items.codes[0], k=500, source="memory").hits) == 400
        found = db.search(items.codes[0], k=500, source="memory")
        assert len(found.hits) == len(held) == 398
        with db.connection.transaction(), pytest.raises(DatabaseError, match="change faster"):
            db.search(items.codes[0], k=500, source="memory")

    def test_an_encoder_that_is_removed(
        self, db: Database, items: retrieval_db.CodeSet, database_url: str
    ) -> None:
        held = db.memory_source()
        with retrieval_db.connect(database_url) as another:
            another.remove_encoder("example")
        with pytest.raises(UnknownEncoder, match="has been removed"):
            held.search(Query((0, 0, 0, 0)))
        with pytest.raises(UnknownEncoder, match="has been removed"):
            held.search_batch(items.codes[:2])
        example.filled(db.connection, "uniform", 30, 64)
        assert len(assert_same(db, items.codes[0], k=50).hits) == 30

    def test_triggers_that_are_off(
        self, db: Database, items: retrieval_db.CodeSet, other: psycopg.Connection[Any]
    ) -> None:
        for switch in ("DISABLE TRIGGER ALL", "ENABLE TRIGGER images_delete_noted"):
            other.execute(f"ALTER TABLE images {switch}")
            with pytest.raises(DatabaseError, match=r"switched off.*ENABLE ALWAYS"):
                db.search(items.codes[0], source="memory")

    def test_a_subscriber(self, db: Database, items: retrieval_db.CodeSet) -> None:
        """Logical replication applies changes without calling statement triggers."""
        db.connection.execute(
            "CREATE SUBSCRIPTION copied CONNECTION 'dbname=nowhere' PUBLICATION p"
            " WITH (connect = false, slot_name = NONE)"
        )
        db.connection.execute(
            "INSERT INTO pg_subscription_rel SELECT oid, 'images'::regclass, 'r', NULL"
            " FROM pg_subscription"
        )
        with pytest.raises(DatabaseError, match="replicated logically"):
            db.memory_source().refresh()
        db.connection.execute("DROP SUBSCRIPTION copied")

    def test_tables_made_anew(
        self, db: Database, items: retrieval_db.CodeSet, database_url: str
    ) -> None:
        db.memory_source()
        before = migration._revisions()[-2]
        migration.move(database_url, before)
        db.connection.execute("DELETE FROM images WHERE id < 100")
        migration.move(database_url, "head")
        assert len(self.same(db)) == 301
