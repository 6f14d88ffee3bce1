"""Codes with what belongs to them, in memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codes, errors

# Features are stored as pgvector's halfvec, which has these limits.
MAX_FEATURE = 65_504
MAX_FEATURE_DIM = 16_000

# What there is one of for each code.
COLUMNS = ("codes", "paths", "labels", "content_sha256", "metadata", "features", "has_feature")


@dataclass(frozen=True)
class CodeSet:
    """Hash codes of N images, and what is known of the images and of the encoder.

    Attributes:
        codes: uint8 [N, ceil(L/8)], in `np.packbits` order.
        bits: L.
        paths: N paths.
        labels: N labels, each may be None; or None.
        content_sha256: uint8 [N, 32], all zeros where it is not known; or None.
        features: float16 or float32 [N, D], or None.
        encoder: the encoder's name, or None.
        fingerprint: SHA-256 (hex) over the encoder's config and weights, or None.
        config: the encoder's config as JSON text, or None.
        artifact: the encoder's weights as safetensors, or None.
        root: the folder that relative paths start from, or None.
        metadata: N JSON texts, each may be None; or None.
        has_feature: bool [N], False where the row of `features` means nothing; None: all have one.

    Raises:
        FormatError: lengths, types or values that do not fit.
        InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
    """

    codes: NDArray[np.uint8]
    bits: int
    paths: Sequence[str]
    labels: Sequence[str | None] | None = None
    content_sha256: NDArray[np.uint8] | None = None
    features: NDArray[np.floating] | None = None
    encoder: str | None = None
    fingerprint: str | None = None
    config: str | None = None
    artifact: bytes | None = None
    root: str | None = None
    metadata: Sequence[str | None] | None = None
    has_feature: NDArray[np.bool_] | None = None

    def __post_init__(self) -> None:
        codes.check_packed(self.codes, self.bits)
        for name in COLUMNS:
            value = getattr(self, name)
            if value is not None:
                check_count(len(self.codes), name, len(value))
        if self.content_sha256 is not None:
            _check_hashes(self.content_sha256)
        if self.features is not None:
            _check_features(self.features)
        if self.has_feature is not None and (
            self.features is None
            or self.has_feature.dtype != np.bool_
            or self.has_feature.ndim != 1
        ):
            raise errors.FormatError("has_feature must be booleans [N], beside features.")

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: NDArray[np.intp] | slice) -> CodeSet:
        """The codes of some rows, given by their indices or a slice."""

        def pick(values: Sequence[Any] | None) -> Any:
            if values is None:
                return None
            if isinstance(rows, slice) or isinstance(values, np.ndarray):
                return values[rows]
            return [values[row] for row in rows]

        return replace(self, **{name: pick(getattr(self, name)) for name in COLUMNS})

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The rows in order, `size` at a time; of an empty set one empty batch."""
        for start in range(0, max(1, len(self)), size):
            yield self.take(slice(start, start + size))

    @property
    def known_hashes(self) -> NDArray[np.bool_]:
        """Which images' content hashes are known, bool [N]."""
        if self.content_sha256 is None:
            return np.zeros(len(self), dtype=np.bool_)
        return np.asarray(self.content_sha256.any(axis=1), dtype=np.bool_)

    @property
    def known_features(self) -> NDArray[np.bool_]:
        """Which images have a feature, bool [N]."""
        if self.features is None or self.has_feature is None:
            return np.full(len(self), self.features is not None)
        return self.has_feature


def joined(parts: Sequence[CodeSet]) -> CodeSet:
    """The rows of sets of one encoder, end to end; all have the same columns but for features."""
    columns: dict[str, Any] = {}
    for name in COLUMNS:
        values = [getattr(part, name) for part in parts]
        if any(value is None for value in values):
            continue
        if isinstance(values[0], np.ndarray):
            columns[name] = np.concatenate(values)
        else:
            columns[name] = [value for part in values for value in part]
    shapes = [part.features.shape[1] for part in parts if part.features is not None]
    if shapes and "features" not in columns:
        columns["features"] = np.concatenate(
            [
                np.zeros((len(part), shapes[0]), np.float16) if part.features is None
                else part.features
                for part in parts
            ]
        )  # fmt: skip
    if shapes:
        columns["has_feature"] = np.concatenate([part.known_features for part in parts])
    return replace(parts[0], **columns)


def described(array: NDArray[Any]) -> str:
    """Type and shape, for messages."""
    return f"{array.dtype} {list(array.shape)}"


def check_count(count: int, name: str, found: int) -> None:
    """See that there is one of something for each code.

    Raises:
        FormatError: there is not.
    """
    if found != count:
        raise errors.FormatError(f"{count} codes, but {found} {name}.")


def _check_hashes(array: NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 32:
        raise errors.FormatError(
            f"content_sha256 must be uint8 [N, 32] or hex texts [N], not {described(array)}."
        )


def _check_features(array: NDArray[Any]) -> None:
    if array.ndim != 2 or array.dtype.kind != "f" or not 1 <= array.shape[1] <= MAX_FEATURE_DIM:
        raise errors.FormatError(
            f"features must be floats [N, D], D up to {MAX_FEATURE_DIM}, not {described(array)}."
        )
    # NaN spreads to both ends, and is not within any limit.
    if array.size and not (array.min() >= -MAX_FEATURE and array.max() <= MAX_FEATURE):
        raise errors.FormatError(
            "The features contain NaN, infinity, or numbers too large for half precision "
            f"(±{MAX_FEATURE})."
        )
