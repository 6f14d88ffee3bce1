"""Rankings as ties, against distances counted one by one."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db import codes
from retrieval_db.errors import WrongWidth
from retrieval_db.evaluation import Ties, ties
from tests.example import random_codes


def counted(
    distances: NDArray[np.integer], relevant: NDArray[np.bool_], bits: int
) -> tuple[list[list[int]], list[list[int]]]:
    """n and r at each distance, by their definition."""
    size = [[int((row == d).sum()) for d in range(bits + 1)] for row in distances]
    good = [
        [int(((row == d) & mask).sum()) for d in range(bits + 1)]
        for row, mask in zip(distances, relevant, strict=True)
    ]
    return size, good


@pytest.mark.parametrize("bits", [4, 12, 20, 48, 64, 72, 128, 256])
def test_images_of_the_label_are_relevant(bits: int) -> None:
    random = np.random.default_rng(bits)
    database, queries = random_codes("equal", 80, bits), random_codes("uniform", 9, bits, seed=1)
    queries[0] = ~database[0] if bits % 8 == 0 else database[0]
    labels, wanted = random.integers(0, 4, 80), random.integers(0, 5, 9)
    distances = codes.hamming_distances(queries, database)
    expected = counted(distances, labels == wanted[:, None], bits)
    found = ties.by_label(queries, database, bits, wanted, labels)
    assert (found.size.tolist(), found.relevant.tolist()) == expected
    names = [f"class {label}" for label in labels]
    texts = ties.by_label(queries, database, bits, [f"class {label}" for label in wanted], names)
    assert np.array_equal(texts.relevant, found.relevant)


def test_rows_are_left_out() -> None:
    random = np.random.default_rng(0)
    database = random_codes("clustered", 50, 16)
    labels = random.integers(0, 3, 50)
    left_out = [np.flatnonzero(random.random(50) < 0.2) for _ in range(50)]
    distances = codes.hamming_distances(database, database)
    kept = np.ones((50, 50), dtype=bool)
    for row, gone in enumerate(left_out):
        kept[row, gone] = False
    expected = counted(np.where(kept, distances, 99), labels == labels[:, None], 16)
    found = ties.by_label(database, database, 16, labels, labels, left_out=left_out)
    assert (found.size.tolist(), found.relevant.tolist()) == expected
    assert found.total.tolist() == kept.sum(axis=1).tolist()


def test_an_image_without_a_label_is_like_no_other() -> None:
    database = random_codes("uniform", 6, 8)
    found = ties.by_label(database[:2], database, 8, ["", "a"], ["", "", "a", "a", "b", ""])
    assert found.total_relevant.tolist() == [0, 2]
    assert found.total.tolist() == [6, 6]


def test_neighbours_of_a_float_search_are_relevant() -> None:
    random = np.random.default_rng(2)
    features = random.standard_normal((60, 8)).astype(np.float32)
    features[30:] = features[:30]
    queries = features[:5] + 0.1
    near = ties.nearest(queries, features, 10)
    cosine = (
        1
        - (queries / np.linalg.norm(queries, axis=1, keepdims=True))
        @ (features / np.linalg.norm(features, axis=1, keepdims=True)).T
    )
    for row, found in enumerate(near):
        expected = sorted(range(60), key=lambda item: (round(float(cosine[row, item]), 5), item))
        assert found.tolist() == expected[:10]
    database, asked = random_codes("clustered", 60, 24), random_codes("clustered", 5, 24, seed=1)
    distances = codes.hamming_distances(asked, database)
    relevant = np.zeros((5, 60), dtype=bool)
    np.put_along_axis(relevant, near, True, axis=1)
    found = ties.by_neighbours(asked, database, 24, near)
    assert (found.size.tolist(), found.relevant.tolist()) == counted(distances, relevant, 24)
    assert ties.nearest(queries, features, 100).shape == (5, 60)


def test_a_feature_of_zeros_is_at_distance_one_from_everything() -> None:
    features = np.eye(3, dtype=np.float32)
    assert next(iter(ties.cosine_distances(np.zeros((1, 3)), features))).tolist() == [1, 1, 1]


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(WrongWidth):
        ties.by_label(random_codes("uniform", 1, 8), random_codes("uniform", 1, 16), 16, [0], [0])
    with pytest.raises(ValueError, match="two arrays"):
        Ties(np.zeros((2, 3), dtype=np.int64), np.zeros((2, 2), dtype=np.int64))
