"""The fine stage: what is near by its code, ranked by its feature."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

import retrieval_db
from retrieval_db import Query, codes, search
from retrieval_db.errors import UsageError, WrongWidth
from tests import example


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
