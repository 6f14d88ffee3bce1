"""Search is exact, ties by id, with an honest certificate, and refuses what it cannot answer."""

from __future__ import annotations

from typing import Literal

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import Query, codes
from retrieval_db.errors import UnknownEncoder, UnknownImage, UsageError, WrongWidth
from tests import example


def as_pairs(result: retrieval_db.SearchResult) -> list[tuple[str, int]]:
    return [(hit.path, hit.distance) for hit in result.hits]


@pytest.mark.parametrize("bits", [4, 16, 48, 64, 128, 252, 256])
@pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
def test_answers_equal_brute_force(database_url: str, kind: str, bits: int) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, kind, 700, bits)
        queries = np.concatenate([items.codes[:10], example.random_codes(kind, 15, bits, seed=9)])
        for number, query in enumerate(queries):
            k = [1, 10, 100, None][number % 4]
            radius = None if k else bits // 4
            result = db.search(query, k=k, radius=radius)
            assert as_pairs(result) == example.nearest(items, query, k, radius)
            assert result.exact
            assert [hit.rank for hit in result.hits] == list(range(1, len(result.hits) + 1))


def test_sql_gives_the_same_answer(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 500, 64)
        query = items.codes[3]
        rows = db.connection.execute(
            "SELECT path, distance, exact FROM search_codes('example', %s, %s, %s, %s, k => 20)",
            codes.words_of(query, 64),
        ).fetchall()
    assert [row[:2] for row in rows] == example.nearest(items, query, 20)
    assert all(row[2] for row in rows)


@pytest.mark.parametrize("others", [0, 9_000])
def test_an_answer_of_more_than_a_thousand_rows(database_url: str, others: int) -> None:
    """Where it is much of the table, the table is read once; otherwise each row is looked up."""
    with retrieval_db.connect(database_url) as db:
        if others:
            example.filled(db.connection, "uniform", others, 64, "others")
        items = example.filled(db.connection, "clustered", 1_100, 64)
        query = items.codes[3]
        for k, radius in ((1_050, None), (None, 64)):
            rows = db.connection.execute(
                "SELECT rank, path, distance FROM"
                " search_codes('example', %s, %s, %s, %s, k => %s, radius => %s)",
                [*codes.words_of(query, 64), k, radius],
            ).fetchall()
            assert [row[1:] for row in rows] == example.nearest(items, query, k, radius)
            assert [row[0] for row in rows] == list(range(1, len(rows) + 1))


def test_filters_leave_k_rows_while_there_are_k(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 700, 64)
        db.connection.execute("UPDATE images SET metadata = jsonb_build_object('number', id % 50)")
        query = items.codes[0]
        ranked = example.nearest(items, query, None)
        found = as_pairs(db.search(query, k=30, labels=["label 3", "label 5"]))
        assert found == [p for p in ranked if int(p[0][8:-4]) % 7 in (3, 5)][:30]
        found = as_pairs(db.search(query, k=30, metadata={"number": 8}))
        assert found == [p for p in ranked if (int(p[0][8:-4]) + 1) % 50 == 8][:30]


def test_an_empty_answer_has_a_certificate(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 50, 128)
        result = db.search(~items.codes[0], radius=2, k=None)
    assert (result.hits, result.exact) == ((), True)
    assert result.guaranteed_radius >= 2


def test_codes_of_one_encoder_never_answer_for_another(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        first = example.filled(db.connection, "uniform", 60, 64, "first")
        example.filled(db.connection, "uniform", 60, 64, "second", seed=1)
        found = db.search(first.codes[0], encoder="second", k=60)
        assert {hit.path.partition("/")[0] for hit in found.hits} == {"second"}
        with pytest.raises(UnknownEncoder, match="first, second"):
            db.search(first.codes[0])


@pytest.mark.parametrize("others", [0, 900])
def test_few_rows_alone_and_among_many(database_url: str, others: int) -> None:
    """Their scan has a plan of its own for each way of packing, and for each way of reading."""
    with retrieval_db.connect(database_url) as db:
        for bits in (16, 64, 128, 256):
            items = example.filled(db.connection, "clustered", 300, bits, f"small {bits}")
            if others:
                example.filled(db.connection, "clustered", others, bits, f"other {bits}", seed=1)
            db.connection.execute(
                "UPDATE images SET metadata = jsonb_build_object('seventh', right(label, 1)::int)"
            )
            db.connection.execute("VACUUM (ANALYZE) images")
            for query in (items.codes[0], *example.random_codes("clustered", 3, bits, seed=2)):
                ranked = example.nearest(items, query, None)
                for k, radius in ((1, None), (40, None), (300, None), (None, bits // 3)):
                    result = db.search(query, encoder=f"small {bits}", k=k, radius=radius)
                    assert as_pairs(result) == example.nearest(items, query, k, radius)
                    assert result.plan == "scan"
                labelled = [
                    pair for pair in ranked if int(pair[0].rpartition("/")[2][:-4]) % 7 == 2
                ]
                for k, radius in ((20, None), (None, bits // 3), (5, bits // 3)):
                    near = [pair for pair in labelled if radius is None or pair[1] <= radius]
                    for filters in ({"labels": ["label 2"]}, {"metadata": {"seventh": 2}}):
                        found = db.search(
                            query, encoder=f"small {bits}", k=k, radius=radius, **filters
                        )
                        assert as_pairs(found) == near[:k]
            db.connection.execute("TRUNCATE images CASCADE")


def test_a_bounded_count_of_labels_is_no_count(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        example.filled(db.connection, "uniform", 2_500, 16)
        labels = [f"label {number}" for number in range(7)]
        # As where most rows are other encoders', so that the statistics of labels say nothing.
        for wanted, estimate in ((labels, 2_500), (labels[3:4], 357), (["none"], 0)):
            found = db.connection.execute(
                "SELECT estimated_labelled(%s, %s, 2500, 1000000)",
                [db.encoder("example").id, wanted],
            ).fetchone()
            assert found == (estimate,)


def test_wrong_queries_are_refused(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        with pytest.raises(UnknownEncoder, match="holds no codes yet"):
            db.search("ff" * 8)
        example.filled(db.connection, "uniform", 20, 64)
        with pytest.raises(UnknownEncoder, match="example"):
            db.search("ff" * 8, encoder="exampel")
        with pytest.raises(WrongWidth, match="16 hex digits"):
            db.search("ff" * 16)
        with pytest.raises(WrongWidth, match="more than the 64 bits"):
            db.search(Query((1 << 40, 0, 0, 0)))
        with pytest.raises(UsageError, match="k, a radius"):
            db.search("ff" * 8, k=None)
        with pytest.raises(UsageError, match="at least 1"):
            db.search("ff" * 8, k=0)
        assert len(db.search("ff" * 8, max_candidates=10**30).hits) == 10
        with pytest.raises(UnknownImage, match="id 99"):
            db.query_by_id(99)
        with pytest.raises(UnknownImage, match="no such"):
            db.query_by_path("no such")


def test_sql_says_what_is_wrong(database_url: str) -> None:
    with example.connect(database_url) as connection:
        with pytest.raises(psycopg.Error, match="There is no encoder 'nobody'") as caught:
            connection.execute("SELECT * FROM search_codes('nobody', 0, 0, 0, 0)")
        assert caught.value.sqlstate == "RD001"


@pytest.mark.parametrize("source", ["database", "memory"])
def test_a_stored_image_is_no_query_for_another_encoder(
    database_url: str, source: Literal["database", "memory"]
) -> None:
    with retrieval_db.connect(database_url) as db:
        for name in ("first", "second"):
            example.filled(db.connection, "uniform", 20, 64, name)
        by_path = db.query_by_path("first/7.jpg", encoder="first")
        for query in (by_path, db.query_by_id(8)):
            assert db.search(query, encoder="first", k=1, source=source).hits[0].image_id == 8
            with pytest.raises(UsageError, match=r"a code of 'first'.* encoder 'first'"):
                db.search(query, encoder="second", source=source)


def test_stored_images_as_queries(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 30, 256)
        by_path = db.query_by_path("example/7.jpg")
        assert by_path.words == codes.words_of(items.codes[7], 256)
        assert db.query_by_id(8).words == by_path.words
