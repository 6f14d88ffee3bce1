"""What no search can answer is refused, in the same words by SQL, by Python and in memory."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

import retrieval_db
from retrieval_db import Query, codes
from retrieval_db.client import Database
from retrieval_db.encoder import create
from retrieval_db.errors import DatabaseError, InvalidCode, UsageError
from tests import example

SOURCES = ("database", "memory")


@pytest.fixture
def db(database_url: str) -> Any:
    with retrieval_db.connect(database_url) as found:
        yield found


def filled(db: Database, bits: int = 64) -> NDArray[np.uint8]:
    """300 codes with features, and one with a label of its own."""
    items = example.code_set(example.random_codes("clustered", 300, bits), bits)
    random = np.random.default_rng(2)
    features = random.normal(size=(300, 8)).astype(np.float32)
    assert items.labels is not None
    db.load(replace(items, labels=["rare", *items.labels[1:]], features=features))
    return items.codes


def state_of(db: Database, statement: str, *values: Any) -> str | None:
    with pytest.raises(psycopg.Error) as caught:
        db.connection.execute(statement, values)
    return caught.value.sqlstate


FEATURE = "'[1,2,3,4,5,6,7,8]'"


class TestSql:
    @pytest.mark.parametrize("function", ["search_codes", "explain_search"])
    @pytest.mark.parametrize(
        "arguments",
        [
            "(SELECT code_1 FROM images WHERE path = 'not there'), 1, 2, 3",
            "1, 2, 3, NULL",
            "1, 2, 3, 4, k => 0",
            "1, 2, 3, 4, k => NULL",
            "1, 2, 3, 4, radius => -1",
            "1, 2, 3, 4, max_ms => 'NaN'",
        ],
    )
    def test_codes(self, db: Database, function: str, arguments: str) -> None:
        filled(db)
        assert state_of(db, f"SELECT * FROM {function}('example', {arguments})") == "RD003"

    @pytest.mark.parametrize("most", ["'infinity'", "1e16", "1e300", "NULL"])
    def test_any_time_is_time_enough(self, db: Database, most: str) -> None:
        filled(db)
        statement = f"SELECT exact FROM search_codes('example', 1, 2, 3, 4, max_ms => {most})"
        assert set(db.connection.execute(statement.encode()).fetchall()) == {(True,)}

    @pytest.mark.parametrize(
        ("arguments", "state"),
        [
            ("NULL, 2, 3, 4, " + FEATURE, "RD003"),
            ("1, 2, 3, 4, NULL", "RD003"),
            ("1, 2, 3, 4, '[1,2]'", "RD002"),
            (f"1, 2, 3, 4, {FEATURE}, k => 0", "RD003"),
            (f"1, 2, 3, 4, {FEATURE}, k => -1", "RD003"),
            (f"1, 2, 3, 4, {FEATURE}, pool => 0", "RD003"),
            (f"1, 2, 3, 4, {FEATURE}, pool_max => 3", "RD003"),
            (f"1, 2, 3, 4, {FEATURE}, metric => 'dot'", "RD003"),
        ],
    )
    def test_images(self, db: Database, arguments: str, state: str) -> None:
        filled(db)
        assert state_of(db, f"SELECT * FROM search_images('example', {arguments})") == state

    @pytest.mark.parametrize(
        ("arguments", "rows"),
        [
            ("k => 9, pool => 2147483647", 9),
            ("k => 9, pool_max => 2147483647", 9),
            ("k => 2147483647", 300),
        ],
    )
    def test_the_largest_number(self, db: Database, arguments: str, rows: int) -> None:
        filled(db)
        statement = f"SELECT * FROM search_images('example', 1, 2, 3, 4, {FEATURE}, {arguments})"
        assert len(db.connection.execute(statement.encode()).fetchall()) == rows

    def test_a_horizon_that_is_none(self, db: Database) -> None:
        """Whoever asks with it is told to read everything again."""
        filled(db)
        encoder = db.encoder().id
        horizon = db.connection.execute("SELECT image_horizon()").fetchone()
        assert horizon is not None
        whole: dict[str, Any] = horizon[0]
        ask = "SELECT image_ids FROM image_changes_since(%s, %s)"
        values = psycopg.types.json.Jsonb
        assert db.connection.execute(ask, [encoder, values(whole)]).fetchall() == []
        without: list[Any] = [
            {name: value for name, value in whole.items() if name != left_out}
            for left_out in ("settled", "seen", "own", "tables")
        ]
        for wrong in [None, {}, [], "x", 3, whole | {"seen": "x"}, *without]:
            assert db.connection.execute(ask, [encoder, values(wrong)]).fetchall() == [(None,)]
        assert db.connection.execute(ask, [encoder, None]).fetchall() == [(None,)]
        assert db.connection.execute(ask, [None, values(whole)]).fetchall() == [(None,)]

    def test_a_temporary_table_of_our_name(self, db: Database) -> None:
        query = filled(db)[3]
        before = db.search(query)
        db.connection.execute("CREATE TEMP TABLE images AS SELECT 1 AS whatever")
        statement = "SELECT path FROM search_codes('example', %s, %s, %s, %s)"
        found = db.connection.execute(statement, codes.words_of(query, 64)).fetchall()
        assert [row[0] for row in found] == [hit.path for hit in before.hits]


@pytest.mark.parametrize("source", SOURCES)
class TestPython:
    @pytest.mark.parametrize("number", [np.int64(3), np.int32(3), np.uint8(3)])
    def test_numbers_of_numpy(self, db: Database, source: Any, number: Any) -> None:
        query = filled(db)[3]
        plain = db.search(query, k=3, source=source).hits
        assert db.search(query, k=number, source=source).hits == plain
        assert db.search(query, k=None, radius=number, source=source).hits
        feature = Query(codes.words_of(query, 64), np.ones(8, dtype=np.float32))
        pooled = db.search(feature, k=3, pool=number, pool_max=number, source=source)
        assert pooled.pool_size == 3

    @pytest.mark.parametrize("wrong", [2.0, 2.5, True, "3", math.nan])
    @pytest.mark.parametrize("name", ["k", "radius", "pool", "pool_max"])
    def test_what_is_no_whole_number(
        self, db: Database, source: Any, name: str, wrong: Any
    ) -> None:
        packed = filled(db)
        query = Query(codes.words_of(packed[0], 64), np.ones(8, dtype=np.float32))
        with pytest.raises(UsageError, match=f"{name} is a whole number, not"):
            db.search(query, **{name: wrong}, source=source)

    def test_one_text_is_no_list_of_labels(self, db: Database, source: Any) -> None:
        packed = filled(db)
        wrong: Any
        for wrong in ("rare", [1], [None]):
            with pytest.raises(UsageError, match="labels are a list of texts"):
                db.search(packed[3], labels=wrong, source=source)
            with pytest.raises(UsageError, match="labels are a list of texts"):
                db.search_batch(packed[:2], labels=wrong, source=source)
        assert [hit.label for hit in db.search(packed[3], labels=["rare"], source=source).hits] == [
            "rare"
        ]

    def test_filters_that_are_empty(self, db: Database, source: Any) -> None:
        """As in SQL: of no label there is no image, and `{}` is in all metadata there are."""
        packed = filled(db)
        assert db.search(packed[3], labels=[], source=source).hits == ()
        assert (db.search_batch(packed[:2], k=3, labels=[], source=source).ids == -1).all()
        db.connection.execute("""UPDATE images SET metadata = '{"a": 1}' WHERE label = 'rare'""")
        hits = db.search(packed[3], metadata={}, source=source).hits
        assert [hit.label for hit in hits] == ["rare"]

    @pytest.mark.parametrize("stage", ["Fine", "x"])
    def test_a_choice_that_is_none(self, db: Database, source: Any, stage: Any) -> None:
        query = filled(db)[3]
        wrong: Any = stage
        with pytest.raises(UsageError, match="stage is 'auto', 'coarse' or 'fine', not"):
            db.search(query, stage=wrong, source=source)
        with pytest.raises(UsageError, match="metric is 'cosine' or 'l2', not"):
            db.search(query, metric=wrong, source=source)
        with pytest.raises(UsageError, match="source is 'database' or 'memory', not"):
            db.search(query, source=wrong)
        with pytest.raises(UsageError, match="source is 'database' or 'memory', not"):
            db.search_batch(query[None], source=wrong)

    def test_columns_that_nobody_has_room_for(self, db: Database, source: Any) -> None:
        packed = filled(db)
        with pytest.raises(UsageError, match=r"1 x 2147483648 answers take 16 GiB"):
            db.search_batch(packed[:1], k=2**31, source=source)
        assert len(db.search(packed[0], k=2**40, source=source).hits) == 300
        assert db.search_batch(packed[:2], k=1000, source=source).ids.shape == (2, 1000)


class TestQueries:
    def test_unsigned_words(self, db: Database) -> None:
        packed = filled(db, 256)
        signed = codes.words_of(packed[5], 256)
        first, second, third, fourth = (word % 2**64 for word in signed)
        unsigned = (first, second, third, fourth)
        assert min(signed) < 0
        for query in (signed, unsigned, Query(unsigned), packed[5].tobytes()):
            assert db.search(query).hits == db.search(packed[5]).hits
        assert Query(unsigned) == Query(signed)

    @pytest.mark.parametrize(
        "words", [(None, 1, 2, 3), (1, 2, 3), (1, 2, 3, 4.5), ("1", 2, 3, 4), (1, 2, 3, 2**64), 7]
    )
    def test_words_that_are_none(self, words: Any) -> None:
        with pytest.raises(InvalidCode):
            Query(words)

    @pytest.mark.parametrize("wrong", [None, 1.5, [0.5, 1.5, 2.5, 3.5], {"a": 1}])
    def test_forms_that_are_none(self, db: Database, wrong: Any) -> None:
        filled(db)
        with pytest.raises(InvalidCode, match="A code is a text"):
            db.search(wrong)

    def test_one_code_at_a_time(self, db: Database) -> None:
        packed = filled(db)
        with pytest.raises(InvalidCode, match="not 2: `search_batch`"):
            db.search(packed[:2])

    @pytest.mark.parametrize("number", [math.inf, math.nan, 1e6])
    def test_features_that_no_half_float_holds(self, db: Database, number: float) -> None:
        packed = filled(db)
        feature = np.full(8, number, dtype=np.float32)
        with pytest.raises(UsageError, match="half precision"):
            db.search(Query(codes.words_of(packed[0], 64), feature))
        with pytest.raises(UsageError, match="half precision"):
            db.search_batch(packed[:1], features=feature[None])

    def test_a_photo_is_a_query_of_its_encoder(self, db: Database, tmp_path: Any) -> None:
        from PIL import Image

        filled(db)
        Image.effect_noise((80, 80), 60).save(tmp_path / "noise.png")
        query = retrieval_db.query_photo(tmp_path / "noise.png", create("phash64"))
        with pytest.raises(UsageError, match="a code of 'phash64'"):
            db.search(query, encoder="example")

    def test_an_id_of_numpy(self, db: Database) -> None:
        packed = filled(db)
        found = db.search_batch(packed[:1], k=1)
        assert db.query_by_id(found.ids[0, 0]).encoder == "example"

    def test_a_closed_database(self, db: Database) -> None:
        query = filled(db)[0]
        db.close()
        db.close()
        with pytest.raises(DatabaseError, match="closed"):
            db.search(query)


def test_what_no_index_or_evaluation_can_do(db: Database) -> None:
    filled(db)
    wrong: Any = "phash64"
    with pytest.raises(UsageError, match=r"create\('phash64'\)"):
        db.index("photos", encoder=wrong)
    with pytest.raises(UsageError, match="At least one worker"):
        db.index("photos", encoder=create("phash64"), workers=0)
    for queries in (0, -1):
        with pytest.raises(UsageError, match="At least one query"):
            db.evaluate(queries)
    for k in (0, -1):
        with pytest.raises(UsageError, match="k must be at least 1"):
            db.evaluate(10, k=k)
    few: Any = np.int64(5)
    assert db.evaluate(few).queries == 5
