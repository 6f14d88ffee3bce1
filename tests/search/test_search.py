"""Search is exact, ties by id, with an honest certificate, and refuses what it cannot answer."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray

import retrieval_db
from retrieval_db import Query, codes, search
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


class TestFineStage:
    """Bucket, Hamming and feature distance in one statement."""

    @pytest.fixture
    def items(self) -> retrieval_db.CodeSet:
        random = np.random.default_rng(5)
        items = example.code_set(example.random_codes("clustered", 400, 64), 64)
        return replace(items, features=random.normal(size=(400, 24)).astype(np.float32))

    @pytest.mark.parametrize("metric", ["cosine", "l2"])
    def test_the_pool_is_ranked_by_feature(
        self, database_url: str, items: retrieval_db.CodeSet, metric: retrieval_db.search.Metric
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            assert items.features is not None
            query = Query(codes.words_of(items.codes[0], 64), items.features[0] + 0.1)
            result = db.search(query, k=10, pool=50, metric=metric)
        ranked = example.nearest(items, items.codes[0], None)
        pool = [int(path[8:-4]) for path, distance in ranked if distance <= ranked[49][1]]
        stored = items.features.astype(np.float16).astype(np.float64)[pool]
        wanted = (items.features[0] + 0.1).astype(np.float16).astype(np.float64)
        if metric == "l2":
            away = np.linalg.norm(stored - wanted, axis=1)
        else:
            away = 1 - stored @ wanted / np.linalg.norm(stored, axis=1) / np.linalg.norm(wanted)
        order = np.argsort(away)[:10]
        assert [hit.path for hit in result.hits] == [f"example/{pool[row]}.jpg" for row in order]
        assert [hit.feature_distance for hit in result.hits] == pytest.approx(away[order], abs=1e-3)
        assert (result.stage, result.pool_size, result.tie_whole) == ("fine", len(pool), True)

    def test_a_query_is_rounded_as_what_is_stored(self, database_url: str) -> None:
        """pgvector reads every half-float as it was, and floats as NumPy rounds them."""
        halves = np.arange(1 << 16, dtype=np.uint16).view(np.float16)
        halves = halves[np.isfinite(halves)]
        floats = np.random.default_rng(0).normal(size=2_000).astype(np.float32)
        parts: list[NDArray[np.floating]] = [*np.array_split(halves, 8), floats]
        with example.connect(database_url) as connection:
            for some in parts:
                row = connection.execute(
                    "SELECT %s::halfvec::real[], %s::halfvec = %s::halfvec",
                    [search.vector_text(some), search.vector_text(some), str(some.tolist())],
                ).fetchone()
                assert row is not None
                assert np.array_equal(np.array(row[0], dtype=np.float32), some.astype(np.float16))
                assert row[1]

    def test_a_tie_too_large_for_the_pool_is_cut_and_says_so(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        same = replace(items, codes=np.repeat(items.codes[:1], 400, axis=0))
        with retrieval_db.connect(database_url) as db:
            db.load(same)
            assert items.features is not None
            query = Query(codes.words_of(same.codes[0], 64), items.features[0])
            cut = db.search(query, pool=20)
            assert (cut.pool_size, cut.tie_whole) == (200, False)
            whole = db.search(query, pool=20, pool_max=400)
            assert (whole.pool_size, whole.tie_whole) == (400, True)

    def test_images_without_a_feature_come_last(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        """They are in the pool; on both sources and in batches."""
        assert items.features is not None
        there = np.arange(400) % 3 == 0
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, has_feature=there))
            query = Query(codes.words_of(items.codes[1], 64), items.features[0])
            found = db.search(query, k=80, pool=80, pool_max=80)
            memory = db.memory_source()
            assert memory.search(query, k=80, pool=80, pool_max=80).hits == found.hits
            batch = db.search_batch(
                items.codes[1:2], features=items.features[:1], k=80, pool=80, pool_max=80
            )
        nearest = example.nearest(items, items.codes[1], 80)
        assert sorted((hit.path, hit.distance) for hit in found.hits) == sorted(nearest)
        assert found.pool_size == 80
        bare = [hit for hit in found.hits if hit.feature_distance is None]
        assert 0 < len(bare) < 80
        assert bare == list(found.hits[-len(bare) :])
        without = [(path, d) for path, d in nearest if not there[int(path[8:-4])]]
        assert [(hit.path, hit.distance) for hit in bare] == without
        assert batch.ids[0].tolist() == [hit.image_id for hit in found.hits]
        assert batch.feature_distances is not None
        assert np.isnan(batch.feature_distances[0]).tolist() == [False] * (80 - len(bare)) + [
            True
        ] * len(bare)

    def test_a_feature_of_zeros_has_no_cosine(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        assert items.features is not None
        features = items.features.copy()
        features[7] = 0
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, features=features))
            query = Query(codes.words_of(items.codes[7], 64), items.features[0])
            for source in (db, db.memory_source()):
                last = source.search(query, k=None, pool=60).hits[-1]
                assert (last.path, last.feature_distance) == ("example/7.jpg", None)
                nearest = source.search(query, k=None, pool=60, metric="l2").hits
                assert all(hit.feature_distance is not None for hit in nearest)

    def test_a_pool_holds_at_least_k(self, database_url: str, items: retrieval_db.CodeSet) -> None:
        assert items.features is not None
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            query = Query(codes.words_of(items.codes[0], 64), items.features[0])
            for source in (db, db.memory_source()):
                found = source.search(query, k=30, pool=3)
                assert found.pool_size is not None
                assert found.pool_size >= len(found.hits) == 30
                whole = source.search(query, k=None, pool=3)
                assert len(whole.hits) == whole.pool_size
                most = source.search(query, k=5_000_000_000, pool=3)
                assert (len(most.hits), most.tie_whole) == (400, True)
                assert len(source.search(query, k=30, pool=3, pool_max=20).hits) == 20
            far = db.search(items.codes[0], k=5_000_000_000, radius=5_000_000_000)
            assert len(far.hits) == 400
            batch = db.search_batch(items.codes[:2], features=items.features[:2], k=30, pool=3)
            assert (batch.ids != -1).all()

    def test_auto_is_fine_where_features_are(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 30, 64, "bare")
            db.load(items)
            query = db.query_by_id(35)
            assert db.search(query, encoder="example").stage == "fine"
            assert db.search(items.codes[0], encoder="example").stage == "coarse"
            with pytest.raises(UsageError, match="no feature"):
                db.search(items.codes[0], encoder="example", stage="fine")
            with pytest.raises(UsageError, match="have no features"):
                db.search(replace(query, encoder=None), encoder="bare", stage="fine")

    def test_a_feature_of_another_dimension_is_refused(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            query = Query(codes.words_of(items.codes[0], 64), np.zeros(5, dtype=np.float32))
            with pytest.raises(WrongWidth, match="24 dimensions"):
                db.search(query)


@pytest.mark.parametrize("bits", [64, 256])
def test_a_batch_gives_the_single_answers_as_arrays(database_url: str, bits: int) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 900, bits)
        asked = np.concatenate([items.codes[:300], example.random_codes("uniform", 5, bits)])
        batch = db.search_batch(asked, k=7, radius=bits // 3)
        assert batch.ids.shape == batch.distances.shape == (305, 7)
        assert (str(batch.ids.dtype), str(batch.distances.dtype)) == ("int64", "int32")
        for row in [*range(0, 300, 10), *range(300, 305)]:
            single = db.search(asked[row], k=7, radius=bits // 3)
            filling = [-1] * (7 - len(single.hits))
            assert batch.ids[row].tolist() == [hit.image_id for hit in single.hits] + filling
            assert batch.distances[row].tolist() == [h.distance for h in single.hits] + filling
            assert batch.exact[row] == single.exact
            assert batch.guaranteed_radius[row] == single.guaranteed_radius
        everything = db.search_batch(asked[:3], k=None, radius=bits)
        assert everything.ids.shape == (3, 900)
        assert db.search_batch(asked[:0]).ids.shape == (0, 10)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
def test_a_batch_goes_from_coarse_to_fine(
    database_url: str, metric: retrieval_db.search.Metric
) -> None:
    random = np.random.default_rng(5)
    items = example.code_set(example.random_codes("clustered", 600, 64), 64)
    items = replace(items, features=random.normal(size=(600, 24)).astype(np.float32))
    features = random.normal(size=(300, 24)).astype(np.float32)
    asked = np.concatenate([items.codes[:298], ~items.codes[:2]])
    options: dict[str, Any] = {"k": 9, "radius": 12, "pool": 15, "metric": metric}
    with retrieval_db.connect(database_url) as db:
        db.load(items)
        batch = db.search_batch(asked, features=features, **options)
        assert batch.feature_distances is not None
        assert batch.pool_size is not None
        assert batch.tie_whole is not None
        for row in [*range(0, 290, 20), 298, 299]:
            query = Query(codes.words_of(asked[row], 64), features[row])
            single = db.search(query, stage="fine", **options)
            filling = 9 - len(single.hits)
            assert batch.ids[row].tolist() == [h.image_id for h in single.hits] + [-1] * filling
            away = [h.feature_distance for h in single.hits] + [np.nan] * filling
            assert batch.feature_distances[row].tolist() == pytest.approx(away, nan_ok=True)
            for name in ("exact", "guaranteed_radius", "pool_size", "tie_whole"):
                assert getattr(batch, name)[row] == getattr(single, name), name
        assert batch.pool_size[299] == 0
        empty = db.search_batch(asked[:0], features=features[:0])
        assert empty.ids.shape == (0, 10)
        with pytest.raises(UsageError, match="300 codes, but 2 features"):
            db.search_batch(asked, features=features[:2])
        with pytest.raises(WrongWidth, match="24 dimensions"):
            db.search_batch(asked, features=features[:, :5])
