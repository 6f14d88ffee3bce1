"""Hash centres."""

from __future__ import annotations

import numpy as np
import pytest

from retrieval_db.encoder.training.targets import (
    centres,
    hadamard,
    minimum_distance,
    nested_centres,
)
from retrieval_db.errors import UsageError


@pytest.mark.parametrize("order", [1, 2, 4, 8, 12, 16, 20, 24, 32, 48, 64, 128, 256])
def test_hadamard_matrices(order: int) -> None:
    matrix = hadamard(order)
    assert matrix is not None
    wide = matrix.astype(np.int64)
    assert np.array_equal(wide @ wide.T, order * np.eye(order))


@pytest.mark.parametrize("order", [3, 6, 28, 36, 52])
def test_no_hadamard_matrix_here(order: int) -> None:
    assert hadamard(order) is None


@pytest.mark.parametrize("bits", [12, 16, 32, 48, 64, 128])
def test_ten_classes_are_half_of_the_bits_apart(bits: int) -> None:
    rows = centres(10, bits, 0)
    assert rows.shape == (10, bits)
    assert minimum_distance(rows) == bits // 2
    assert np.abs(rows.mean(axis=0)).max() <= 0.6  # no bit is the same for all, nearly
    assert np.array_equal(centres(10, bits, 0), rows)
    assert not np.array_equal(centres(10, bits, 1), rows)


def test_twice_as_many_classes_as_bits() -> None:
    rows = centres(24, 12, 0)
    assert minimum_distance(rows) == 6
    assert len(np.unique(rows, axis=0)) == 24


def test_other_widths_take_the_best_of_many_draws() -> None:
    """28 bits have no matrix here; random rows alone would be nearer."""
    assert minimum_distance(centres(10, 28, 0)) >= 12
    drawn = np.random.default_rng(0).integers(0, 2, (200, 64)).astype(np.int8) * 2 - 1
    assert minimum_distance(centres(200, 64, 0)) > minimum_distance(drawn)
    assert len(np.unique(centres(16, 4, 0), axis=0)) == 16


def test_every_prefix_of_nested_targets_is_half_apart() -> None:
    rows = nested_centres(10, (16, 32, 64), 3)
    assert rows.shape == (10, 64)
    assert [minimum_distance(rows[:, :width]) for width in (16, 32, 64)] == [8, 16, 32]
    assert np.array_equal(rows[:, :16], centres(10, 16, 3))
    assert not np.array_equal(rows[:, :16], rows[:, 16:32])
    assert np.array_equal(nested_centres(10, (64,), 3), centres(10, 64, 3))


def test_more_classes_than_codes() -> None:
    with pytest.raises(UsageError, match="17 classes need more than 4 bits"):
        centres(17, 4)


def test_the_minimum_distance() -> None:
    rows = np.array([[1, 1, 1], [1, -1, -1], [1, 1, -1]], np.int8)
    assert minimum_distance(rows) == 1
    assert minimum_distance(rows[:1]) == 3
