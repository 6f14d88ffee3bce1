"""Methods that learn from labels on fixed features: ITQ-CCA, KSH, DPLM. Pure NumPy.

Each takes features, float32 [N, D], and the numbers of their classes, int64 [N].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
from numpy.typing import NDArray

from .heads import Float32, Float64, LinearHead, centred, quantising_rotation, unit_rows
from .kernels import KernelHead, choose_anchors, similarities

Classes = NDArray[np.int64]
Options = Mapping[str, float]

KSH_STEPS = 100  # of gradient ascent for each bit
KSH_SHARE = 0.1  # first step: how far the steepest ascent may move a
DPLM_ROUNDS = 5  # of B, then W
DPLM_STEPS = 20  # proximal steps of B in each round


def fit_itq_cca(
    features: Float32, classes: Classes, bits: int, seed: int, options: Options
) -> LinearHead:
    """CCA between features X and one-hot labels Y, then the rotation of ITQ.

    The L leading directions w_k of  XᵀY·(YᵀY + ρI)⁻¹·YᵀX·w = λ²·(XᵀX + ρI)·w,  each scaled
    by its correlation λ_k, take the place of the principal axes of `fit_itq`. With C classes
    only C − 1 correlations are more than 0: the rotation spreads them over all bits.

    Gong, Lazebnik, Gordo & Perronnin, "Iterative quantization: a Procrustean approach to
    learning binary codes for large-scale image retrieval", PAMI 2013, section 3.3.

    Options: regularisation (ρ, as a share of the mean eigenvalue of XᵀX).
    """
    from scipy.linalg import eigh

    x = unit_rows(features)
    mean = x.mean(axis=0)
    x -= mean
    onehot = one_hot(classes)
    onehot -= onehot.mean(axis=0)
    within = x.T @ x
    rho = options["regularisation"] * np.trace(within) / len(within)
    within[np.diag_indices_from(within)] += rho
    cross = x.T @ onehot
    labels = onehot.T @ onehot + 1e-6 * len(x) * np.eye(onehot.shape[1])
    between = cross @ np.linalg.solve(labels, cross.T)
    dim = len(within)
    first = max(0, dim - bits)
    values, vectors = eigh((between + between.T) / 2, within, subset_by_index=[first, dim - 1])
    directions = vectors[:, ::-1] * np.sqrt(values[::-1].clip(0, 1))
    projection = np.zeros((dim, bits))
    projection[:, : directions.shape[1]] = directions
    rotation = quantising_rotation(x @ projection, seed)
    return centred(mean, projection @ rotation)


def fit_ksh(
    features: Float32, classes: Classes, bits: int, seed: int, options: Options
) -> KernelHead:
    """Bit by bit, the a that maximises hᵀ·R·h, h = sgn(K·a), on the residue of the labels.

    S_ij is 1 for images of a class and −1 else; R₀ = L·S and R_k = R_{k−1} − h_k·h_kᵀ, so
    that the codes' inner products come near L·S; K [n, M] holds the kernel's similarities to
    M anchors, less their means. Each bit starts at the largest generalised eigenvector of
    KᵀRK·a = λ·KᵀK·a; then gradient ascent on hᵀRh with h = φ(K·a), φ(x) = 2/(1 + e⁻ˣ) − 1;
    whichever of the two is better after the sign is kept.

    Liu, Wang, Ji, Jiang & Chang, "Supervised hashing with kernels", CVPR 2012.

    Options: anchors (M), samples (n, drawn with as many of each class as can be).
    """
    random = np.random.default_rng(seed)
    anchors, gamma = choose_anchors(features, int(options["anchors"]), seed)
    rows = balanced(classes, int(options["samples"]), random)
    kernel = similarities(features[rows], anchors, gamma)
    means = _kernel_means(features, anchors, gamma, random)
    kernel -= means
    onehot = one_hot(classes[rows])
    codes = np.zeros((len(rows), 0))

    def residue(x: Float64) -> Float64:
        # R·x without R: S = 2·YYᵀ − 1·1ᵀ, and what is taken off are the codes found so far.
        labels: Float64 = 2 * onehot @ (onehot.T @ x) - x.sum(axis=0)
        return bits * labels - codes @ (codes.T @ x)

    gram = kernel.T @ kernel
    # Anchors may be copies of each other; a touch of ridge keeps the pencil definite.
    gram[np.diag_indices_from(gram)] += 1e-6 * np.trace(gram) / len(gram)
    weight = np.empty((len(anchors), bits))
    for bit in range(bits):
        start = _leading(kernel.T @ residue(kernel), gram)
        start *= np.sqrt(len(rows) / (start @ gram @ start))
        better = _ascend(kernel, residue, start)
        signs = [np.where(kernel @ a > 0, 1.0, -1.0) for a in (start, better)]
        values = [h @ residue(h) for h in signs]
        kept = int(values[1] > values[0])
        weight[:, bit] = (start, better)[kept]
        codes = np.column_stack([codes, signs[kept]])
    return _kernel_head(anchors, gamma, weight, means)


def fit_dplm(
    features: Float32, classes: Classes, bits: int, seed: int, options: Options
) -> KernelHead:
    """Discrete codes B ∈ {−1, 1}^{N×L} from which labels Y can be read off linearly:

        min ½‖Y − B·W‖² + δ/2·‖W‖² + μ/4·‖BᵀB − N·I‖² + ρ/2·‖Bᵀ1‖²

    (bits uncorrelated by μ, balanced by ρ; here μ and ρ are divided by N, so that they do not
    depend on it). In turns: W = (BᵀB + δI)⁻¹BᵀY, and discrete proximal steps
    B ← sgn(B − ∇/η), ∇ the gradient by B and η a bound of its slope, until no bit changes.
    Then the hash function is the ridge regression of B on the kernel's similarities to M
    anchors; that is what encodes new images.

    Shen, Zhou, Yang, Song, Shen & Tao, "A fast optimization method for general binary code
    learning", IEEE Transactions on Image Processing 25(12), 2016; the hash function as in
    Shen, Shen, Liu & Shen, "Supervised discrete hashing", CVPR 2015. The objective was written
    down without the paper's text at hand and has not been held against it.

    Options: anchors (M), delta (δ), mu (μ), rho (ρ).
    """
    random = np.random.default_rng(seed)
    anchors, gamma = choose_anchors(features, int(options["anchors"]), seed)
    means = _kernel_means(features, anchors, gamma, random)
    kernel = similarities(features, anchors, gamma) - means
    gram = kernel.T @ kernel
    gram[np.diag_indices_from(gram)] += 1e-4 * np.trace(gram) / len(gram)
    onehot = one_hot(classes)
    # The first codes are signs of random combinations of what the labels explain of the
    # kernel: they agree within classes, and can be computed from an image.
    explained = kernel @ np.linalg.solve(gram, kernel.T @ (onehot - onehot.mean(axis=0)))
    codes = _signs(explained @ random.standard_normal((onehot.shape[1], bits)))
    for _ in range(DPLM_ROUNDS):
        before = codes
        square = codes.T @ codes
        square[np.diag_indices_from(square)] += options["delta"]
        readout: Float64 = np.linalg.solve(square, codes.T @ onehot).astype(np.float64)
        for _ in range(DPLM_STEPS):
            stepped = _proximal_step(codes, onehot, readout, options["mu"], options["rho"])
            if np.array_equal(stepped, codes):
                break
            codes = stepped
        if np.array_equal(codes, before):
            break
    weight: Float64 = np.linalg.solve(gram, kernel.T @ codes).astype(np.float64)
    return _kernel_head(anchors, gamma, weight, means)


def one_hot(classes: Classes) -> Float64:
    """Y, float64 [N, C]."""
    found: Float64 = np.eye(int(classes.max()) + 1)[classes]
    return found


def balanced(classes: Classes, count: int, random: np.random.Generator) -> Classes:
    """Rows of a sample with as many of each class as can be, int64 [≤ count]."""
    shuffled = random.permutation(len(classes))
    # The place of each row among those of its class decides: first ones first.
    order = np.argsort(classes[shuffled], kind="stable")
    sizes = np.bincount(classes)
    place = np.empty(len(classes), np.int64)
    place[order] = np.concatenate([np.arange(size) for size in sizes])
    return np.sort(shuffled[np.argsort(place, kind="stable")[:count]])


def _signs(x: Float64) -> Float64:
    return np.where(x > 0, 1.0, -1.0)


def _proximal_step(codes: Float64, onehot: Float64, w: Float64, mu: float, rho: float) -> Float64:
    """sgn(B − ∇/η); η bounds the largest eigenvalue of the linearised gradient."""
    count = len(codes)
    square = codes.T @ codes
    gradient = codes @ (w @ w.T) - onehot @ w.T
    gradient += mu / count * (codes @ square - count * codes)
    gradient += rho / count * codes.sum(axis=0)
    slope = np.linalg.norm(w, 2) ** 2 + mu * np.linalg.norm(square, 2) / count + rho
    return _signs(codes - gradient / slope)


def _leading(matrix: Float64, gram: Float64) -> Float64:
    """The eigenvector of the largest generalised eigenvalue, float64 [M]."""
    from scipy.linalg import eigh

    last = len(gram) - 1
    _, vectors = eigh((matrix + matrix.T) / 2, gram, subset_by_index=[last, last])
    found: Float64 = vectors[:, 0]
    return found


def _ascend(kernel: Float64, residue: Callable[[Float64], Float64], start: Float64) -> Float64:
    """Maximise φ(Ka)ᵀ·R·φ(Ka) from `start` by accelerated gradient steps that shrink as needed."""

    def smooth(a: Float64) -> Float64:
        # φ(x) = 2/(1 + e⁻ˣ) − 1 = tanh(x/2)
        found: Float64 = np.tanh(kernel @ a / 2)
        return found

    point = ahead = start
    value = float(smooth(point) @ residue(smooth(point)))
    step, momentum = 0.0, 1.0
    for _ in range(KSH_STEPS):
        h = smooth(ahead)
        gradient = kernel.T @ (residue(h) * (1 - h**2))
        norm = np.linalg.norm(gradient)
        if not norm:
            break
        step = step or float(KSH_SHARE * np.linalg.norm(start) / norm)
        new = ahead + step * gradient
        h = smooth(new)
        found = float(h @ residue(h))
        if found < value:  # too far: go back, without momentum, by half
            step, momentum, ahead = step / 2, 1.0, point
            continue
        following = (1 + (1 + 4 * momentum**2) ** 0.5) / 2
        ahead = new + (momentum - 1) / following * (new - point)
        gain = found - value
        point, value, momentum = new, found, following
        if gain < 1e-5 * abs(value):
            break
    return point


def _kernel_means(
    features: Float32, anchors: Float32, gamma: float, random: np.random.Generator
) -> Float64:
    """The mean similarity to each anchor, float64 [M], over up to 10,000 images."""
    rows = np.sort(random.permutation(len(features))[:10_000])
    found: Float64 = similarities(features[rows], anchors, gamma).mean(axis=0)
    return found


def _kernel_head(anchors: Float32, gamma: float, weight: Float64, means: Float64) -> KernelHead:
    """(k(x) − means)·weight as a head."""
    rounded = weight.astype(np.float32)
    bias = -(means @ rounded.astype(np.float64))
    return KernelHead(anchors, gamma, rounded, bias.astype(np.float32))
