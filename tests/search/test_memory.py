"""Searches in memory give the database's answers, and its refusals."""

from __future__ import annotations

import weakref
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import Query, codes, loading
from retrieval_db.client import Database
from retrieval_db.errors import UnknownEncoder, UsageError, WrongWidth
from retrieval_db.search import flat
from tests import example
from tests.search.sources import assert_same


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


def test_every_version(any_database_url: str) -> None:
    with retrieval_db.connect(any_database_url) as db:
        items = example.filled(db.connection, "clustered", 300, 128)
        for change in ("UPDATE images SET code_1 = 5 WHERE id = 9", "DELETE FROM images"):
            assert_same(db, items.codes[8], k=20, labels=["label 1", "label 3"])
            db.connection.execute(change)
        assert assert_same(db, items.codes[8], k=20).hits == ()
