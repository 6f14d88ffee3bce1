"""Searches in memory give the database's answers, and never those of stale codes."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import Query, codes, layouts, loading, migration
from retrieval_db.client import Database
from retrieval_db.errors import DatabaseError, UnknownEncoder, UsageError, WrongWidth
from retrieval_db.search import MemorySource, flat
from tests import example, postgres


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with retrieval_db.connect(database_url) as found:
        yield found


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection."""
    with example.connect(database_url) as connection:
        yield connection


def without_cost(result: retrieval_db.SearchResult) -> dict[str, Any]:
    """An answer without what it cost and where it came from."""
    dropped = ("milliseconds", "plan", "shells", "probes", "candidates", "source")
    return {name: value for name, value in result.as_dict().items() if name not in dropped}


def assert_same(db: Database, query: Any, **options: Any) -> retrieval_db.SearchResult:
    """Both sources give the same answer, hit for hit."""
    wanted = db.search(query, **options)
    found = db.search(query, **options, source="memory")
    assert found.hits == wanted.hits
    assert (found.source, wanted.source) == ("memory", "database")
    assert found.exact
    assert wanted.exact
    assert found.guaranteed_radius == db.encoder(options.get("encoder")).bits
    assert (found.stage, found.pool_size, found.tie_whole) == (
        wanted.stage, wanted.pool_size, wanted.tie_whole
    )  # fmt: skip
    return found


class TestAnswers:
    """The same hits in the same order, with ties, filters, and k and radius beyond the rows."""

    @pytest.mark.parametrize("bits", [4, 48, 64, 100, 128, 252, 256])
    @pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
    def test_equal_the_database(self, db: Database, kind: str, bits: int) -> None:
        items = example.filled(db.connection, kind, 300, bits)
        held = {"default": db.memory_source(), "numpy": db.memory_source(index=flat.NumPyIndex)}
        queries = np.concatenate([items.codes[:4], example.random_codes(kind, 4, bits, seed=9)])
        for number, query in enumerate(queries):
            k = [1, 10, 400, None][number % 4]
            radius = [None, 0, bits // 4, bits + 3][(number + number // 4) % 4]
            if k is None and radius is None:
                radius = bits // 3
            wanted = assert_same(db, query, k=k, radius=radius).hits
            assert (
                held["default"].search(Query(codes.words_of(query, bits)), k=k, radius=radius).hits
                == wanted
            )
        assert [source.full_reads for source in held.values()] == [1, 1]

    def test_filters(self, db: Database) -> None:
        items = example.filled(db.connection, "clustered", 700, 64)
        db.connection.execute("UPDATE images SET metadata = jsonb_build_object('number', id % 50)")
        db.connection.execute("UPDATE images SET label = NULL WHERE id % 11 = 0")
        for query in items.codes[:5]:
            for labels in (None, [], ["label 3", "label 5"], ["no such label"]):
                for metadata in (None, {}, {"number": 8}, {"no such": 1}):
                    for k, radius in ((7, None), (900, None), (None, 20), (5, 12)):
                        assert_same(db, query, k=k, radius=radius, labels=labels, metadata=metadata)

    def test_encoders_side_by_side(self, db: Database) -> None:
        for number, name in enumerate(("first", "second")):
            example.filled(db.connection, "clustered", 120, 64, name, seed=number)
        for name in ("first", "second", "first"):
            for query in example.random_codes("clustered", 5, 64):
                found = assert_same(db, query, encoder=name, k=130)
                assert len(found.hits) == 120

    def test_batches(self, db: Database) -> None:
        items = example.filled(db.connection, "equal", 400, 128)
        asked = np.concatenate([items.codes[:40], example.random_codes("uniform", 5, 128)])
        for options in ({"k": 7}, {"k": 500}, {"k": None, "radius": 30}, {"labels": ["label 2"]}):
            wanted = db.search_batch(asked, **options)
            found = db.search_batch(asked, **options, source="memory")
            assert np.array_equal(found.ids, wanted.ids)
            assert np.array_equal(found.distances, wanted.distances)
            assert found.exact.all()
            assert (found.guaranteed_radius == 128).all()
            for name, array in vars(wanted).items():
                same = getattr(found, name)
                assert (same is None) == (array is None), name
                assert array is None or same.dtype == array.dtype, name
        assert db.search_batch(asked[:0], source="memory").ids.shape == (0, 10)

    def test_pages(self, db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("retrieval_db.search.resident.PAGE", 64)
        monkeypatch.setattr("retrieval_db.search.flat.BLOCK", 50)
        items = example.filled(db.connection, "clustered", 64 * 3, 64)
        for query in items.codes[:10]:
            assert_same(db, query, k=30)
        assert_same(db, items.codes[0], k=30, labels=["label 1", "label 4"])

    def test_no_codes(self, db: Database) -> None:
        loading.load(db.connection, example.code_set(example.random_codes("uniform", 1, 64), 64))
        db.connection.execute("DELETE FROM images")
        assert assert_same(db, "00" * 8).hits == ()
        assert assert_same(db, "00" * 8, k=None, radius=9).hits == ()

    def test_large_ids(self, db: Database) -> None:
        items = example.filled(db.connection, "uniform", 30, 64)
        db.connection.execute("UPDATE images SET id = id + 10000000000000000 WHERE id % 3 = 0")
        assert_same(db, items.codes[0], k=30)
        for beyond in (-1, 1 << 54):
            with pytest.raises(psycopg.errors.CheckViolation, match="images_id_check"):
                db.connection.execute("UPDATE images SET id = %s WHERE id = 1", [beyond])


class TestFineStage:
    """Features are ranked in the database, whichever source the pool comes from."""

    @pytest.fixture
    def items(self) -> retrieval_db.CodeSet:
        items = example.code_set(example.random_codes("equal", 300, 64), 64)
        features = np.random.default_rng(5).normal(size=(300, 24)).astype(np.float32)
        return replace(items, features=features)

    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    def test_equals_the_database(
        self, db: Database, items: retrieval_db.CodeSet, metric: Literal["cosine", "l2"]
    ) -> None:
        db.load(items)
        assert items.features is not None
        for row in range(0, 60, 7):
            query = Query(codes.words_of(items.codes[row], 64), items.features[row] + 0.1)
            for options in (
                {"k": 10}, {"pool": 50}, {"pool": 3, "pool_max": 4}, {"pool": 500, "k": 400},
                {"radius": 12, "k": None}, {"labels": ["label 2"]}, {"radius": 0, "labels": ["x"]},
            ):  # fmt: skip
                assert assert_same(db, query, metric=metric, **options).stage == "fine"
        db.connection.execute("DELETE FROM image_features WHERE image_id % 2 = 0")
        assert_same(db, query, metric=metric)

    def test_wrong_queries(self, db: Database, items: retrieval_db.CodeSet) -> None:
        db.load(items)
        query = Query(codes.words_of(items.codes[0], 64), np.zeros(24, dtype=np.float32))
        for options in (
            {"pool": 0},
            {"pool": -3, "k": None},
            {"k": 0},
            {"k": -1},
            {"radius": -1},
            {"pool": 9, "pool_max": 8},
            {"metric": "l3"},
        ):
            refused = []
            for source in ("database", "memory"):
                with pytest.raises(UsageError) as caught:
                    db.search(query, **options, source=source)
                refused.append(str(caught.value))
            assert refused[0] == refused[1]


def test_wrong_queries_are_refused_in_the_same_words(db: Database) -> None:
    with pytest.raises(UnknownEncoder, match="holds no codes yet"):
        db.search("ff" * 8, source="memory")
    example.filled(db.connection, "uniform", 20, 64)
    for query, options, kind in (
        ("ff" * 8, {"encoder": "exampel"}, UnknownEncoder),
        ("ff" * 16, {}, WrongWidth),
        (Query((1 << 40, 0, 0, 0)), {}, WrongWidth),
        (Query((-1, 0, 0, 0)), {}, WrongWidth),
        (Query((0, 0, 0, 0), np.zeros(3, dtype=np.float32)), {"stage": "fine"}, UsageError),
        ("ff" * 8, {"k": None}, UsageError),
        ("ff" * 8, {"k": 0}, UsageError),
        ("ff" * 8, {"radius": -1}, UsageError),
    ):
        refused = []
        for source in ("database", "memory"):
            with pytest.raises(kind) as caught:
                db.search(query, **options, source=source)
            refused.append(str(caught.value).partition(" SELECT")[0])
        assert refused[0] == refused[1]
    with pytest.raises(UsageError, match="every code is compared"):
        db.search("ff" * 8, max_candidates=9, source="memory")
    with pytest.raises(UsageError, match="every code is compared"):
        db.search_batch(np.zeros((1, 8), dtype=np.uint8), max_candidates=9, source="memory")


def test_an_index_that_cannot_be_made_leaves_the_source_as_it_was(
    db: Database, other: psycopg.Connection[Any]
) -> None:
    """As where memory is short just then."""
    fail = False

    def made(words: flat.PackedWords, bits: int) -> flat.FlatIndex:
        if fail:
            raise MemoryError
        return flat.NumPyIndex(words, bits)

    items = example.filled(db.connection, "uniform", 50, 64)
    held = db.memory_source(index=made)
    query = Query(codes.words_of(items.codes[40], 64))
    held.search(query)
    other.execute("DELETE FROM images WHERE id < 4")
    fail = True
    with pytest.raises(MemoryError):
        held.search(query)
    fail = False
    assert held.search(query, k=60).hits == db.search(query, k=60).hits


def test_nothing_is_kept_of_an_encoder_that_is_removed(db: Database) -> None:
    example.filled(db.connection, "uniform", 50, 64)
    held = weakref.ref(db.memory_source())
    db.remove_encoder("example")
    assert held() is None


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
        monkeypatch.undo()

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

    def test_a_writer_without_rights_on_the_log(
        self, db: Database, cluster: postgres.Cluster, database_url: str
    ) -> None:
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


def test_every_version(any_database_url: str) -> None:
    with retrieval_db.connect(any_database_url) as db:
        items = example.filled(db.connection, "clustered", 300, 128)
        for change in ("UPDATE images SET code_1 = 5 WHERE id = 9", "DELETE FROM images"):
            assert_same(db, items.codes[8], k=20, labels=["label 1", "label 3"])
            db.connection.execute(change)
        assert assert_same(db, items.codes[8], k=20).hits == ()
