"""ITQ-CCA, KSH and DPLM: heads that are fitted with labels."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db.encoder.hashing import supervised
from retrieval_db.encoder.hashing.heads import fit_itq, unit_rows
from retrieval_db.encoder.hashing.kernels import KernelHead, choose_anchors, similarities
from retrieval_db.encoder.hashing.methods import METHODS

NAMES = ("itq_cca", "ksh", "dplm")
CENTRES = np.random.default_rng(9).gamma(1.0, size=(6, 40))


def data(count: int, seed: int) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Noisy features of six classes, and as strong noise that tells nothing of them."""
    random = np.random.default_rng(seed)
    classes = random.integers(0, 6, count)
    x = 0.5 * CENTRES[classes] + random.gamma(1.0, size=(count, 40))
    return x.astype(np.float32), classes.astype(np.int64)


def fit(name: str, bits: int = 16, seed: int = 0, **options: float) -> Any:
    features, classes = data(600, 0)
    method = METHODS[name]
    assert method.fit_labels is not None
    given = {"anchors": 100.0} | options if "anchors" in method.options else options
    return method.fit_labels(features, classes, bits, seed, method.settings(bits, given))


def precision(head: Any) -> float:
    """The share of the same class among the 50 nearest codes of images not fitted on."""
    (x, classes), (queries, wanted) = data(600, 0), data(100, 1)
    distance = ((head(queries) > 0)[:, None] != (head(x) > 0)).sum(axis=2)
    nearest = np.argsort(distance, axis=1, kind="stable")[:, :50]
    return float(np.mean(classes[nearest] == wanted[:, None]))


@pytest.mark.parametrize("name", NAMES)
def test_labels_help(name: str) -> None:
    assert precision(fit(name)) > precision(fit_itq(data(600, 0)[0], 16, 0)) + 0.1


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_determinism(name: str) -> None:
    features, _ = data(50, 2)
    head = fit(name, 24)
    outputs = head(features)
    assert outputs.shape == (50, 24)
    assert outputs.dtype == np.float32
    assert np.array_equal(fit(name, 24)(features), outputs)
    assert not np.array_equal(fit(name, 24, seed=1)(features), outputs)
    alone = np.concatenate([head(row[None]) for row in features])
    assert np.array_equal(alone > 0, outputs > 0)
    np.testing.assert_allclose(head(features * 3), outputs, rtol=1e-4, atol=1e-5)
    assert head(features[:0]).shape == (0, 24)


def test_cca_finds_the_directions_that_labels_explain() -> None:
    """Against the correlations of scikit-learn's CCA on the same, regularised not at all."""
    decomposition = pytest.importorskip("sklearn.cross_decomposition")
    features, classes = data(600, 0)
    x, y = unit_rows(features), supervised.one_hot(classes)
    reference = decomposition.CCA(3, max_iter=5000, tol=1e-9).fit(x, y[:, :-1])
    a, _ = reference.transform(x, y[:, :-1])
    head = supervised.fit_itq_cca(features, classes, 4, 0, {"regularisation": 0.0})
    u = head(features).astype(np.float64)
    # Four rotated directions hold the three strongest of five.
    fitted = u @ np.linalg.lstsq(u, a - a.mean(axis=0), rcond=None)[0]
    assert np.corrcoef(fitted[:, 0], a[:, 0])[0, 1] > 0.999
    assert np.corrcoef(fitted[:, 2], a[:, 2])[0, 1] > 0.99


def test_a_proximal_step_lowers_what_it_minimises() -> None:
    """½‖Y − BW‖² + μ/(4N)·‖BᵀB − N·I‖² + ρ/(2N)·‖Bᵀ1‖², and its gradient."""
    random = np.random.default_rng(0)
    _, classes = data(300, 0)
    y = supervised.one_hot(classes)
    codes = np.where(random.standard_normal((300, 8)) > 0, 1.0, -1.0)
    w = np.linalg.solve(codes.T @ codes + np.eye(8), codes.T @ y).astype(np.float64)
    mu, rho = 0.01, 0.02

    def value(b: NDArray[np.float64]) -> float:
        uncorrelated = np.square(b.T @ b - len(b) * np.eye(8)).sum() * mu / (4 * len(b))
        balanced = np.square(b.sum(axis=0)).sum() * rho / (2 * len(b))
        return float(np.square(y - b @ w).sum() / 2 + uncorrelated + balanced)

    values = [value(codes)]
    for _ in range(5):
        codes = supervised._proximal_step(codes, y, w, mu, rho)
        values.append(value(codes))
    assert values[-1] < values[0]
    assert all(after <= before + 1e-9 for before, after in itertools.pairwise(values))


def test_ksh_codes_come_near_the_labels() -> None:
    """Inner products of codes are high within a class and low across, as S says."""
    features, classes = data(600, 0)
    codes = np.where(fit("ksh")(features) > 0, 1.0, -1.0)
    inner = codes @ codes.T / 16
    same = np.equal.outer(classes, classes)
    assert inner[same].mean() > inner[~same].mean() + 0.6


def test_a_sample_is_balanced() -> None:
    classes = np.array([0] * 50 + [1] * 5 + [2] * 45)
    rows = supervised.balanced(classes, 30, np.random.default_rng(0))
    assert np.bincount(classes[rows]).tolist() in ([13, 5, 12], [12, 5, 13])
    assert len(supervised.balanced(classes, 500, np.random.default_rng(0))) == 100


def test_the_kernel_by_its_definition() -> None:
    features, _ = data(30, 3)
    anchors, gamma = choose_anchors(features, 7, 0)
    assert np.linalg.norm(anchors, axis=1) == pytest.approx(1)
    head = KernelHead(anchors, gamma, np.eye(7, dtype=np.float32), np.zeros(7, np.float32))
    x = unit_rows(features)
    expected = [[np.exp(-gamma * np.square(a - b).sum()) for b in anchors] for a in x]
    np.testing.assert_allclose(head(features), expected, rtol=1e-5)
    # 2σ² is twice the mean squared distance: the mean of −ln k is ½.
    assert -np.log(similarities(features, anchors, gamma)).mean() == pytest.approx(0.5, rel=0.05)
