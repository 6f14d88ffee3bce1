"""Heads on the similarities of a feature to anchors, by a Gaussian kernel. Pure NumPy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from .heads import Float32, Float64, blocks, unit_rows


@dataclass(frozen=True)
class KernelHead:
    """outputs = k(x)·weight + bias, k_j(x) = exp(−γ‖x − a_j‖²), x the feature of length 1.

    Attributes:
        anchors: a, [M, D] float32.
        gamma: γ = 1/(2σ²).
        weight: [M, L] float32.
        bias: [L] float32.
    """

    anchors: Float32 = field(repr=False)
    gamma: float
    weight: Float32 = field(repr=False)
    bias: Float32 = field(repr=False)

    def __call__(self, features: Float32) -> Float32:
        """Compute the outputs, float32 [N, L], of features, float32 [N, D]; in float64."""
        weight = self.weight.astype(np.float64)
        outputs = np.empty((len(features), len(self.bias)), np.float32)
        for rows in blocks(len(features)):
            kernel = similarities(features[rows], self.anchors, self.gamma)
            outputs[rows] = kernel @ weight + self.bias
        return outputs


def similarities(features: Float32, anchors: Float32, gamma: float) -> Float64:
    """k(x), float64 [N, M], of features [N, D]."""
    found: Float64 = np.exp(-gamma * square_distances(features, anchors))
    return found


def square_distances(features: Float32, anchors: Float32) -> Float64:
    """‖x − a‖², float64 [N, M], of features [N, D] of length 1 and anchors [M, D]."""
    x, a = unit_rows(features), anchors.astype(np.float64)
    inner = x @ a.T
    found: Float64 = (
        np.square(x).sum(axis=1)[:, None] + np.square(a).sum(axis=1) - 2 * inner
    ).clip(min=0)
    return found


def choose_anchors(features: Float32, count: int, seed: int) -> tuple[Float32, float]:
    """M ≤ N random features of length 1, float32 [M, D], and the γ that suits them:
    2σ² is twice the mean squared distance, as in the program of Liu et al. (KSH, CVPR 2012).
    """
    random = np.random.default_rng(seed)
    rows = np.sort(random.permutation(len(features))[:count])
    anchors = unit_rows(features[rows]).astype(np.float32)
    sample = features[random.permutation(len(features))[:2000]]
    mean = float(square_distances(sample, anchors).mean())
    return anchors, 1 / (2 * mean) if mean > 0 else 1.0
