"""What networks say of the images of a data set; each network sees an image once."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db.encoders import Encoder, FeatureExtractor

from .datasets import Images
from .reading import none_readable, read

BATCH = 64


@dataclass(frozen=True)
class Responses:
    """The images that could be read, and what an encoder made of them.

    Attributes:
        rows: int64 [M], ascending; which images.
        values: float32 [M, D]: features, or of a perceptual hash its outputs.
        sha256: M hashes of their content, 32 bytes each.
        skipped: why the others could not be read.
    """

    rows: NDArray[np.int64]
    values: NDArray[np.float32]
    sha256: tuple[bytes, ...]
    skipped: tuple[str, ...]

    def places(self, wanted: NDArray[np.int64]) -> NDArray[np.int64]:
        """Where these images stand here; those that could not be read are left out."""
        return np.flatnonzero(np.isin(self.rows, wanted))


def network_key(encoder: Encoder) -> Hashable:
    """What features depend on. Encoders of one key, such as the widths of one training run,
    have the same features; a perceptual hash has none, and a key of its own."""
    backbone = getattr(encoder, "backbone", None)
    if backbone is None:
        return encoder.fingerprint
    settings = (getattr(encoder, name) for name in ("preprocess", "precision"))
    return backbone.name, backbone.weights_sha256(), *settings


def respond(
    encoder: Encoder,
    images: Images,
    rows: NDArray[np.int64],
    *,
    progress: Callable[[int], None] = lambda images: None,
) -> Responses:
    """Show images to an encoder: features of a network, outputs of a perceptual hash.

    Features of a published backbone are kept; see `features.extract`.

    Args:
        encoder: a network need not be fitted.
        rows: which images, int64 [N], ascending.
        progress: called with the number of images since the last call.

    Raises:
        ImageError: none of the images can be read.
    """

    if getattr(getattr(encoder, "backbone", None), "sha256", None):
        from .features import extract
        from .network import NetworkEncoder

        assert isinstance(encoder, NetworkEncoder)
        found = extract(encoder, images, rows, progress=progress)
        hashes_of = tuple(row.tobytes() for row in found.sha256)
        return Responses(found.rows, found.features, hashes_of, tuple(found.skipped))

    kept: list[int] = []
    hashes: list[bytes] = []
    skipped: list[str] = []
    values: list[NDArray[np.float32]] = []
    waiting: list[NDArray[Any]] = []
    for outcome in read(encoder, images, rows):
        progress(1)
        if isinstance(outcome, str):
            skipped.append(outcome)
            continue
        assert outcome.array is not None
        kept.append(outcome.row)
        hashes.append(outcome.sha256)
        waiting.append(outcome.array)
        if len(waiting) == BATCH:
            values.append(_values(encoder, np.stack(waiting)))
            waiting.clear()
    if waiting:
        values.append(_values(encoder, np.stack(waiting)))
    if not values:
        raise none_readable(skipped)
    return Responses(
        np.array(kept, dtype=np.int64), np.concatenate(values), tuple(hashes), tuple(skipped)
    )


def _values(encoder: Encoder | FeatureExtractor, batch: NDArray[Any]) -> NDArray[np.float32]:
    features = getattr(encoder, "features", None)
    found: NDArray[np.float32] = encoder.encode(batch)[1] if features is None else features(batch)  # type: ignore[union-attr]
    return found
