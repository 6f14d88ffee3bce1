"""Hash centres: one ±1 vector for each class, far from all others. Pure NumPy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import UsageError

Signs = NDArray[np.int8]

TRIES = 200  # draws of a set of rows; the best is kept
CANDIDATES = 64  # draws for each row of such a set


def centres(classes: int, bits: int, seed: int | Sequence[int] = 0) -> Signs:
    """Targets [C, L] of ±1, each pair as far apart as can be had.

    Rows of a Hadamard matrix of order L, each with a random sign: any two differ in exactly
    L/2 bits, negated or not, and the signs keep its constant column from being a constant
    bit. Of some draws the one whose most one-sided bit is least so is kept. Up to 2·L classes
    take a row and its negative, L bits apart. Where there is no such matrix here, or for more
    classes, Bernoulli(½) rows of the best minimum distance found.

    Yuan et al., CVPR 2020 (hash centres); Hoe et al., NeurIPS 2021 (orthogonal targets).

    Args:
        classes: C.
        bits: L.
        seed: which rows and signs, or which draws.

    Raises:
        UsageError: there are fewer codes than classes.
    """
    check_room(classes, (bits,))
    random = np.random.default_rng(seed)
    matrix = hadamard(bits)
    if matrix is None or classes > 2 * bits:
        return _bernoulli(classes, bits, random)
    draws = [_rows(matrix, classes, random) for _ in range(TRIES)]
    return min(draws, key=lambda rows: int(np.abs(rows.sum(axis=0, dtype=np.int64)).max()))


def check_room(classes: int, widths: Sequence[int]) -> None:
    """See whether each class can have a code of its own, in each part of a nested one.

    Raises:
        UsageError: a part has fewer codes than there are classes.
    """
    for before, after in pairwise((0, *widths)):
        if classes > 2.0 ** (after - before):
            raise UsageError(f"{classes} classes need more than {after - before} bits.")


def nested_centres(classes: int, widths: Sequence[int], seed: int = 0) -> Signs:
    """Targets [C, L] of which the first bits are targets by themselves, for each width.

    `centres` of the first width, and beside them those of what each further one adds. Where
    these are rows of Hadamard matrices, any two classes differ in half of the bits of every
    prefix; the first width has the very targets of a code of its own.

    Args:
        classes: C.
        widths: rising; the last is L.
        seed: as in `centres`.

    Raises:
        UsageError: a part has fewer codes than there are classes.
    """
    edges = (0, *widths)
    parts = [
        centres(classes, after - before, (seed, part) if part else seed)
        for part, (before, after) in enumerate(pairwise(edges))
    ]
    return np.concatenate(parts, axis=1)


def _rows(matrix: Signs, classes: int, random: np.random.Generator) -> Signs:
    """C ≤ 2·L random rows with random signs, as many of each kind."""
    chosen = random.permutation(len(matrix))[:classes]
    signs = random.permutation(np.resize(np.array([1, -1], np.int8), len(chosen)))
    rows = matrix[chosen] * signs[:, None]
    return np.concatenate([rows, -rows])[:classes]


def hadamard(order: int) -> Signs | None:
    """A Hadamard matrix, ±1 with orthogonal rows; None where these constructions give none.

    Sylvester's doubling of the matrix of half the order, or Paley's first construction where
    order − 1 is a prime that leaves 3 when divided by 4: so 4, 8, 12, 16, 20, 24, 32, 40, 44,
    48, 60, 64, 68, 72, 80, 84, 88, 96, 104, 108, 120, 128, …
    """
    if order == 1:
        return np.ones((1, 1), np.int8)
    half = hadamard(order // 2) if order % 2 == 0 else None
    if half is not None:
        return np.block([[half, half], [half, -half]])
    prime = order - 1
    if prime % 4 != 3 or any(prime % divisor == 0 for divisor in range(2, int(prime**0.5) + 1)):
        return None
    # χ(a): 1 for a square other than 0, 0 for 0, −1 else.
    character = -np.ones(prime, np.int8)
    character[np.arange(1, prime) ** 2 % prime] = 1
    character[0] = 0
    differences = np.subtract.outer(np.arange(prime), np.arange(prime)) % prime
    matrix = np.ones((order, order), np.int8)
    matrix[1:, 0] = -1
    matrix[1:, 1:] = character[differences] + np.eye(prime, dtype=np.int8)
    return matrix


def minimum_distance(rows: Signs) -> int:
    """The smallest Hamming distance of two rows [C, L]; L for a single one."""
    inner = rows.astype(np.int64) @ rows.T.astype(np.int64)
    np.fill_diagonal(inner, -rows.shape[1])
    return int((rows.shape[1] - inner.max()) // 2)


def _bernoulli(classes: int, bits: int, random: np.random.Generator) -> Signs:
    """Draws of ±1; in each set, row after row is the farthest of some draws."""
    best, found = None, -1
    for _ in range(max(1, TRIES // classes)):
        rows = np.empty((classes, bits), np.int8)
        for row in range(classes):
            drawn = random.integers(0, 2, (CANDIDATES, bits), dtype=np.int8) * 2 - 1
            inner = drawn.astype(np.int64) @ rows[:row].T.astype(np.int64)
            worst = inner.max(axis=1) if row else np.zeros(CANDIDATES)
            rows[row] = drawn[worst.argmin()]
        distance = minimum_distance(rows)
        if distance > found:
            best, found = rows, distance
    assert best is not None
    if not found:  # some draws were equal: count through all codes instead
        numbers = random.permutation(min(2**bits, 1 << 20))[:classes]
        best = ((numbers[:, None] >> np.arange(bits)) & 1).astype(np.int8) * 2 - 1
    return best
