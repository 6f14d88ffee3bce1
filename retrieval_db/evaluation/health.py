"""Code health: whether the bits of an encoder carry anything, or have collapsed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .. import codes, layouts
from ..database import Connection, translated
from ..encoders import StoredEncoder
from ..errors import UsageError
from ..sql import queries

SQL = queries("evaluation")

# Rows that are taken from the server, and unpacked, at a time.
BLOCK = 100_000
# Without a layout, buckets are counted on chunks of so many bits, as the migrations make them.
CHUNK = 16
# Chunks of up to so many bits have a counter for each value, of more one for each value met.
COUNTED = 20

# A bit that is 1, or 0, for more of the images than this says next to nothing (entropy < .15).
DEAD = 0.98
# Two bits that agree, or differ, this much are one bit.
TWIN = 0.95
# One code for this share of the images is no longer a coincidence.
CROWDED = 0.5
# Fewer independent bits than this tell not even three kinds of images apart.
FEWEST = 1.5
# Trained on a few classes, some bits repeat others; more than this share of them is a fault.
FAULTY = 0.1

Verdict = Literal["healthy", "weak", "collapsed"]


@dataclass(frozen=True, eq=False)
class Health:
    """The codes of N images, looked at as L bits.

    Attributes:
        images: N.
        bits: L.
        mean: float64 [L], the share of images whose bit is 1.
        entropy: float64 [L], of each bit, 0 to 1.
        correlation: float64 [L, L], between bits; 0 for a bit that never changes.
        effective_bits: how many uncorrelated bits of full variance would vary as much as these
            together: (Σλ)²/Σλ² of their covariance, times the share of the variance that is
            there (4·variance, averaged over those).
        distinct: codes that differ.
        largest_group: images that share the most frequent code.
        largest_bucket: images that share the most frequent value of a chunk.
        chunks: bits of the chunks that buckets are of.
        verdict: in one word.
        findings: what is wrong, in sentences; empty if nothing is.
    """

    images: int
    bits: int
    mean: NDArray[np.float64]
    entropy: NDArray[np.float64]
    correlation: NDArray[np.float64]
    effective_bits: float
    distinct: int
    largest_group: int
    largest_bucket: int
    chunks: tuple[int, ...]
    verdict: Verdict
    findings: tuple[str, ...]

    @property
    def strongest_correlation(self) -> float:
        """The largest |correlation| between two bits."""
        off = np.abs(self.correlation) * (1 - np.eye(self.bits))
        return float(off.max(initial=0))

    @property
    def mean_correlation(self) -> float:
        """The mean |correlation| over all pairs of bits."""
        off = np.abs(self.correlation) * (1 - np.eye(self.bits))
        return float(off.sum() / (self.bits * (self.bits - 1)))

    def as_dict(self) -> dict[str, Any]:
        """Plain values, for JSON; of the correlations a summary."""
        return {
            "verdict": self.verdict,
            "findings": list(self.findings),
            "images": self.images,
            "bits": self.bits,
            "effective_bits": self.effective_bits,
            "distinct": self.distinct,
            "largest_group": self.largest_group,
            "largest_bucket": self.largest_bucket,
            "chunks": list(self.chunks),
            "strongest_correlation": self.strongest_correlation,
            "mean_correlation": self.mean_correlation,
            "mean": self.mean.tolist(),
            "entropy": self.entropy.tolist(),
        }


def of_codes(packed: NDArray[np.uint8], bits: int, chunks: Sequence[int] | None = None) -> Health:
    """Look at codes in memory, uint8 [N, ceil(L/8)].

    Args:
        chunks: bits of the chunks that buckets are counted on; of 16 by default.

    Raises:
        UsageError: there are none.
    """
    distinct, counts = np.unique(codes.check_packed(packed, bits), axis=0, return_counts=True)
    return _look(iter([(distinct, counts.astype(np.int64))]), bits, chunks)


def of_table(connection: Connection, encoder: StoredEncoder) -> Health:
    """Look at all codes of an encoder in the database, with the chunks that it has there.

    Raises:
        UsageError: it has none.
    """
    with translated(connection):
        layout = layouts.layout_of(connection, encoder)
        return _look(
            _stored(connection, encoder), encoder.bits, None if layout is None else layout.widths
        )


def _stored(
    connection: Connection, encoder: StoredEncoder
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]:
    """Each distinct code once, with how many rows have it; block by block."""
    with connection.transaction(), connection.cursor(name="health", binary=True) as cursor:
        cursor.execute(SQL["distinct_codes"], [encoder.id])
        while rows := cursor.fetchmany(BLOCK):
            block = np.array(rows, dtype=np.int64)
            yield codes.from_words(block[:, :4], encoder.bits), block[:, 4]


def _look(
    blocks: Iterable[tuple[NDArray[np.uint8], NDArray[np.int64]]],
    bits: int,
    chunks: Sequence[int] | None,
) -> Health:
    widths = tuple(chunks or [min(CHUNK, bits - start) for start in range(0, bits, CHUNK)])
    buckets = [_Buckets(width) for width in widths]
    ones, pairs = np.zeros(bits), np.zeros((bits, bits))
    images = distinct = largest = 0
    for packed, counts in blocks:
        if not len(packed):
            continue
        unpacked = codes.unpack(packed, bits)
        plain = unpacked.astype(np.float64)
        ones += counts @ plain
        pairs += (plain * counts[:, None]).T @ plain
        images += int(counts.sum())
        distinct += len(packed)
        largest = max(largest, int(counts.max()))
        for bucket, values in zip(buckets, _chunk_values(unpacked, widths), strict=True):
            bucket.add(values, counts)
    if not images:
        raise UsageError("There are no codes to look at.")
    mean = ones / images
    covariance = pairs / images - np.outer(mean, mean)
    deviation = np.sqrt(np.clip(np.diagonal(covariance), 0, None))
    moving = deviation > 0
    scale = np.where(moving, deviation, 1)
    correlation = np.clip(covariance / np.outer(scale, scale), -1, 1) * np.outer(moving, moving)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nan_to_num(mean * np.log2(mean)) - np.nan_to_num(
            (1 - mean) * np.log2(1 - mean)
        )
    found = {
        "images": images,
        "bits": bits,
        "mean": mean,
        "entropy": np.clip(entropy, 0, 1) + 0.0,
        "correlation": correlation,
        "effective_bits": _effective(covariance),
        "distinct": distinct,
        "largest_group": largest,
        "largest_bucket": max(bucket.largest() for bucket in buckets),
        "chunks": widths,
    }
    verdict, findings = _judge(found)
    return Health(**found, verdict=verdict, findings=findings)


class _Buckets:
    """How many rows have each value of a chunk."""

    def __init__(self, width: int) -> None:
        self._counters = np.zeros(1 << width, dtype=np.int64) if width <= COUNTED else None
        self._values: list[NDArray[np.uint32]] = []
        self._counts: list[NDArray[np.int64]] = []

    def add(self, values: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if self._counters is not None:
            np.add.at(self._counters, values, counts)
        else:
            self._values.append(values.astype(np.uint32))
            self._counts.append(counts)

    def largest(self) -> int:
        """How many rows the fullest bucket has, once there are any."""
        if self._counters is not None:
            return int(self._counters.max())
        _, place = np.unique(np.concatenate(self._values), return_inverse=True)
        return int(np.bincount(place, np.concatenate(self._counts)).max())


def _chunk_values(
    unpacked: NDArray[np.uint8], widths: Sequence[int]
) -> Iterator[NDArray[np.int64]]:
    start = 0
    for width in widths:
        weights = 1 << np.arange(width - 1, -1, -1, dtype=np.int64)
        yield unpacked[:, start : start + width].astype(np.int64) @ weights
        start += width


def _effective(covariance: NDArray[np.float64]) -> float:
    """Participation ratio of the eigenvalues, in bits of variance 1/4."""
    values = np.clip(np.linalg.eigvalsh(covariance), 0, None)
    total = values.sum()
    if total <= 0:
        return 0.0
    ratio = total**2 / (values**2).sum()
    # Spread evenly over that many directions, each has this share of a full bit's variance.
    return float(ratio * min(1.0, 4 * total / ratio))


def _judge(found: dict[str, Any]) -> tuple[Verdict, tuple[str, ...]]:
    images, bits, mean = found["images"], found["bits"], found["mean"]
    dead = int(((mean > DEAD) | (mean < 1 - DEAD)).sum())
    upper = np.abs(np.triu(found["correlation"], k=1))
    twins = int((upper > TWIN).any(axis=0).sum())
    crowded = images > 1 and found["largest_group"] > CROWDED * images
    findings = []
    if dead:
        findings.append(
            f"Bits that are the same for more than {DEAD:.0%} of the images: {dead} of {bits}."
        )
    if twins:
        findings.append(
            f"Bits that repeat another one (correlation over {TWIN}): {twins} of {bits}; a "
            "shorter code would do as well."
        )
    if crowded:
        findings.append(f"{found['largest_group'] / images:.0%} of the images share one code.")
    elif found["distinct"] * 10 < images:
        findings.append(
            f"There are {found['distinct']:,} codes for {images:,} images: many searches end in "
            "a tie, which only features can break (--stage fine)."
        )
    if crowded or dead > bits / 2 or (images > 1 and found["effective_bits"] < FEWEST):
        return "collapsed", tuple(findings)
    return ("weak" if dead + twins > FAULTY * bits else "healthy"), tuple(findings)
