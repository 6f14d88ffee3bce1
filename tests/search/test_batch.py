"""Many queries at once give what each gives alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import retrieval_db
from retrieval_db import Query, codes
from retrieval_db.errors import UsageError, WrongWidth
from tests import example


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
