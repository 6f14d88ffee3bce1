"""Heads that are fitted on features."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db.encoder.hashing.heads import (
    LinearHead,
    fit_itq,
    fit_lsh,
    fit_nested_itq,
    fit_pca_rr,
    unit_rows,
)
from retrieval_db.errors import NotEnoughImages, UsageError

Fit = Callable[..., LinearHead]
FITS: list[Fit] = [fit_itq, fit_nested_itq, fit_pca_rr, fit_lsh]


def clusters(count: int = 400, dim: int = 48, seed: int = 0) -> NDArray[np.float32]:
    """Positive features around ten centres, as of a ReLU network."""
    rng = np.random.default_rng(seed)
    centres = np.random.default_rng(99).gamma(1.0, size=(10, dim))
    noise = rng.normal(scale=0.4, size=(count, dim))
    return np.abs(centres[rng.integers(0, 10, count)] + noise).astype(np.float32)


@pytest.mark.parametrize("fit", FITS)
def test_shapes_and_determinism(fit: Fit) -> None:
    features = clusters()
    head = fit(features, 32, 0)
    assert (head.weight.shape, head.bias.shape) == ((48, 32), (32,))
    assert head.weight.dtype == head.bias.dtype == np.float32
    outputs = head(features)
    assert outputs.shape == (400, 32)
    assert outputs.dtype == np.float32
    again = fit(features, 32, 0)
    assert np.array_equal(again.weight, head.weight)
    assert np.array_equal(again.bias, head.bias)
    assert not np.array_equal(fit(features, 32, 1).weight, head.weight)


@pytest.mark.parametrize("fit", FITS)
def test_bits_do_not_depend_on_the_batch(fit: Fit) -> None:
    features = clusters(1000)
    head = fit(features, 32, 0)
    together = head(features)
    alone = np.concatenate([head(row[None]) for row in features])
    assert np.array_equal(alone > 0, together > 0)
    np.testing.assert_allclose(alone, together, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("fit", FITS)
def test_outputs_are_centred_and_ignore_the_length_of_a_feature(fit: Fit) -> None:
    features = clusters()
    head = fit(features, 16, 0)
    np.testing.assert_allclose(head(features).mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(head(features * 7), head(features), atol=1e-6)


def quantisation_error(outputs: NDArray[np.float32]) -> float:
    return float(((np.where(outputs > 0, 1, -1) - outputs) ** 2).sum())


def test_itq_lowers_the_quantisation_error_of_a_random_rotation() -> None:
    features = clusters()
    start = fit_pca_rr(features, 16, 0)
    itq = fit_itq(features, 16, 0)
    assert quantisation_error(itq(features)) < quantisation_error(start(features))
    errors = [quantisation_error(fit_itq(features, 16, 0, n)(features)) for n in range(1, 12)]
    assert all(after <= before + 1e-6 for before, after in itertools.pairwise(errors))
    assert np.array_equal(fit_itq(features, 16, 0, 0).weight, start.weight)


@pytest.mark.parametrize("count", [400, 30])
def test_pca_keeps_the_largest_variances(count: int) -> None:
    """The outputs span the subspace that scikit-learn's PCA finds, with more images than
    dimensions and with fewer."""
    decomposition = pytest.importorskip("sklearn.decomposition")
    features = clusters(count)
    reference = decomposition.PCA(8, svd_solver="full").fit(unit_rows(features)).components_
    q, _ = np.linalg.qr(fit_itq(features, 8, 0).weight.astype(np.float64))
    np.testing.assert_allclose(q @ q.T, reference.T @ reference, atol=1e-5)


@pytest.mark.parametrize("count", [300, 40])
def test_copies_among_the_images_do_no_harm(count: int) -> None:
    features = clusters(10).repeat(count // 10, axis=0)
    outputs = fit_itq(features, 32, 0)(features)
    assert np.isfinite(outputs).all()
    assert len(np.unique(outputs > 0, axis=0)) == 10


def test_nested_itq_is_made_of_the_codes_of_each_width() -> None:
    features = clusters()
    found = fit_nested_itq(features, 48, 0)(features)
    for width, before in ((16, 0), (32, 16), (48, 32)):
        own = fit_itq(features, width, 0)(features)
        np.testing.assert_allclose(found[:, before:width], own[:, before:], atol=1e-5)
    short = fit_nested_itq(features, 16, 0)
    np.testing.assert_allclose(short.weight, fit_itq(features, 16, 0).weight, atol=1e-5)
    from_eight = fit_nested_itq(features, 16, 0, shortest=8)(features)
    np.testing.assert_allclose(from_eight[:, :8], fit_itq(features, 8, 0)(features), atol=1e-5)


def test_itq_keeps_neighbours_together() -> None:
    features, queries = clusters(1000, seed=1), clusters(50, seed=2)
    head = fit_itq(features, 32, 0)
    distances = ((head(queries) > 0)[:, None] != (head(features) > 0)).sum(axis=2)
    cosines = unit_rows(queries) @ unit_rows(features).T
    nearest = np.argsort(distances, axis=1, kind="stable")[:, :10]
    typical = np.median(cosines, axis=1)
    assert np.mean(np.take_along_axis(cosines, nearest, axis=1) > typical[:, None]) > 0.99


@pytest.mark.parametrize("fit", [fit_itq, fit_nested_itq, fit_pca_rr])
def test_pca_needs_more_images_than_bits_and_as_many_dimensions(fit: Fit) -> None:
    with pytest.raises(NotEnoughImages, match=r"at least 33 images, there are 32.*lsh32"):
        fit(clusters(32), 32, 0)
    assert fit(clusters(33), 32, 0).weight.shape == (48, 32)
    with pytest.raises(UsageError, match=r"at most 48 bits.*lsh64"):
        fit(clusters(400), 64, 0)


def test_lsh_takes_any_number_of_images_but_none() -> None:
    features = clusters(3)
    assert fit_lsh(features, 256, 0).weight.shape == (48, 256)
    single = fit_lsh(features[:1], 64, 0)(features[:1])
    assert 10 < np.count_nonzero(single > 0) < 54
    with pytest.raises(NotEnoughImages):
        fit_lsh(features[:0], 64, 0)


def test_features_of_zeros_are_taken() -> None:
    features = clusters()
    features[0] = 0
    assert np.isfinite(fit_itq(features, 16, 0)(features)).all()
