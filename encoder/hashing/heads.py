"""Heads: from features to the outputs whose signs are the bits. Pure NumPy, fixed seeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import NotEnoughImages, UsageError

from .nesting import widths

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]

ITQ_ITERATIONS = 50
NESTED_FROM = 16
BLOCK = 4096  # rows

# What a classifier sees of the outputs u: σ(u), the code as ±1, tanh(u), or u itself.
ACTIVATIONS = ("sigmoid", "sign", "tanh", "none")


@dataclass(frozen=True)
class LinearHead:
    """outputs = x·weight + bias, where x is the feature, of length 1 if `normalize`.

    Attributes:
        weight: [D, L] float32.
        bias: [L] float32.
        normalize: whether features are L2-normalised first.
    """

    weight: Float32 = field(repr=False)
    bias: Float32 = field(repr=False)
    normalize: bool

    def __call__(self, features: Float32) -> Float32:
        """Compute the outputs, float32 [N, L], of features, float32 [N, D].

        In float64: there the order of summation, which BLAS chooses by the number of rows,
        cannot move an output across 0 in practice (error 1e-16, against 1e-7 in float32).
        """
        weight = self.weight.astype(np.float64)
        outputs = np.empty((len(features), weight.shape[1]), np.float32)
        for rows in blocks(len(features)):
            part = features[rows]
            x = unit_rows(part) if self.normalize else part.astype(np.float64)
            outputs[rows] = x @ weight + self.bias
        return outputs


@dataclass(frozen=True)
class Classifier:
    """Names the class from outputs: class scores = activation(u)·weight + bias.

    Attributes:
        linear: [L, C].
        activation: one of `ACTIVATIONS`.
    """

    linear: LinearHead
    activation: str = "sigmoid"

    def __call__(self, outputs: Float32) -> Float32:
        """Class scores, float32 [N, C], of outputs, float32 [N, L]."""
        u = outputs.astype(np.float64)
        if self.activation == "sigmoid":
            u = (np.tanh(u / 2) + 1) / 2  # does not overflow where exp would
        elif self.activation == "sign":
            u = np.where(u > 0, 1.0, -1.0)
        elif self.activation == "tanh":
            u = np.tanh(u)
        return self.linear(u.astype(np.float32))


def unit_rows(features: NDArray[np.floating]) -> Float64:
    """Divide each row of [N, D] by its L2 norm (rows of zeros stay zero): a float64 copy."""
    x = features.astype(np.float64)
    for rows in blocks(len(x)):
        norms = np.linalg.norm(x[rows], axis=1, keepdims=True)
        x[rows] /= np.where(norms > 0, norms, 1.0)
    return x


def blocks(count: int) -> Iterator[slice]:
    """All of so many rows, block by block: what is computed of them on the way stays small."""
    for start in range(0, count, BLOCK):
        yield slice(start, start + BLOCK)


def fit_lsh(features: Float32, bits: int, seed: int = 0) -> LinearHead:
    """Random hyperplanes through the centre of the L2-normalised features.

    Charikar, "Similarity estimation techniques from rounding algorithms", STOC 2002; here
    the features are centred, since those of a ReLU network all lie in one orthant.

    Args:
        features: [N, D] float32.
        bits: L, the code length; may exceed D and N.
        seed: of the directions.

    Raises:
        NotEnoughImages: N = 0.
    """
    if len(features) == 0:
        raise NotEnoughImages("There are no images to fit an encoder on.")
    planes = np.random.default_rng(seed).standard_normal((features.shape[1], bits))
    # The centre of a single image is the image itself, and its code would be noise.
    mean = unit_rows(features).mean(axis=0) if len(features) > 1 else np.zeros(features.shape[1])
    return centred(mean, planes)


def fit_pca_rr(features: Float32, bits: int, seed: int = 0) -> LinearHead:
    """PCA to L dimensions, then a random rotation, which evens out the variances.

    The baseline "PCA-RR" of Gong & Lazebnik, CVPR 2011. Arguments and errors as `fit_itq`.
    """
    mean, axes, _ = principal(features, bits)
    return centred(mean, axes @ _random_rotation(bits, seed))


def fit_itq(
    features: Float32, bits: int, seed: int = 0, iterations: int = ITQ_ITERATIONS
) -> LinearHead:
    """Iterative quantisation: PCA to L dimensions, then the rotation R that minimises
    ‖sign(V·R) − V·R‖², found by turns: B = sign(V·R); R = U·Wᵀ of the SVD VᵀB = U·S·Wᵀ.

    Gong & Lazebnik, "Iterative quantization: a Procrustean approach to learning binary
    codes", CVPR 2011; on L2-normalised, centred features.

    Args:
        features: [N, D] float32.
        bits: L ≤ min(D, N − 1).
        seed: of the first, random rotation.
        iterations: at most; it stops when no bit changes.

    Raises:
        NotEnoughImages: L > N − 1.
        UsageError: L > D.
    """
    mean, axes, projected = principal(features, bits)
    return centred(mean, axes @ quantising_rotation(projected, seed, iterations))


def fit_nested_itq(
    features: Float32, bits: int, seed: int = 0, *, shortest: int = NESTED_FROM
) -> LinearHead:
    """Nested codes of ITQ: the first 16 bits are those of `fit_itq` for 16 bits; the next 16 are
    the second half of those for 32, the 32 after them the second half of those for 64, and so on.
    Every such prefix is a code by itself; and as each part begins with the axes of most variance
    again, these weigh more in a long code than in one of `fit_itq`.

    Our own; after Kusupati et al., "Matryoshka representation learning", NeurIPS 2022, which
    nests features.

    Arguments and errors as `fit_itq`; `shortest` as in `nesting.widths`.
    """
    mean, axes, projected = principal(features, bits)
    parts = []
    for before, after in pairwise((0, *widths(bits, shortest))):
        rotation = quantising_rotation(projected[:, :after], seed)
        parts.append(axes[:, :after] @ rotation[:, before:])
    return centred(mean, np.concatenate(parts, axis=1))


def quantising_rotation(projected: Float64, seed: int, iterations: int = ITQ_ITERATIONS) -> Float64:
    """The rotation R [L, L] of rows [N, L] that `fit_itq` finds."""
    rotation = _random_rotation(projected.shape[1], seed)
    before: NDArray[np.bool_] | None = None
    for _ in range(iterations):
        positive = projected @ rotation > 0
        if before is not None and np.array_equal(positive, before):
            break
        signs = np.where(positive, 1.0, -1.0)
        u, _, wt = np.linalg.svd(projected.T @ signs)
        rotation = u @ wt
        before = positive
    return rotation


def centred(mean: Float64, projection: Float64) -> LinearHead:
    """The head (x − mean)·projection on L2-normalised features."""
    weight = projection.astype(np.float32)
    bias = -(mean @ weight.astype(np.float64))
    return LinearHead(weight, bias.astype(np.float32), normalize=True)


def principal(features: Float32, bits: int) -> tuple[Float64, Float64, Float64]:
    """Mean [D] of L2-normalised features, principal axes [D, L] by falling variance, and the
    projected rows [N, L]. Errors as `fit_itq`."""
    count, dim = features.shape
    if bits > dim:
        raise UsageError(
            f"PCA gives at most {dim} bits on features of {dim} dimensions, not {bits}: "
            f"ask for fewer bits, or use lsh{bits}."
        )
    if bits > count - 1:
        raise NotEnoughImages(
            f"PCA to {bits} bits needs at least {bits + 1} images, there are {count}: "
            f"add images, ask for fewer bits, or use lsh{bits}."
        )
    x = unit_rows(features)
    mean = x.mean(axis=0)
    x -= mean
    axes = _axes(x, bits)
    # An axis's sign is arbitrary: the largest component is made positive.
    largest = np.abs(axes).argmax(axis=0)
    axes = axes * np.where(axes[largest, np.arange(bits)] < 0, -1.0, 1.0)
    return mean, axes, x @ axes


def _axes(centred: Float64, bits: int) -> Float64:
    """The L directions of most variance, [D, L], of centred rows [N, D]."""
    count, dim = centred.shape
    if count <= dim:
        return np.linalg.svd(centred, full_matrices=False)[2][:bits].T
    # Late: scipy is slow to import, and only fitting needs it. It can compute the largest L
    # eigenvectors only; they come in ascending order.
    from scipy.linalg import eigh

    _, vectors = eigh(centred.T @ centred, subset_by_index=[dim - bits, dim - 1])
    return np.asarray(vectors[:, ::-1], dtype=np.float64)


def _random_rotation(bits: int, seed: int) -> Float64:
    """A random orthogonal matrix [L, L], uniform (Haar): QR with positive diagonal of R."""
    q, r = np.linalg.qr(np.random.default_rng(seed).standard_normal((bits, bits)))
    rotation: Float64 = q * np.sign(np.diag(r))
    return rotation
