"""Features that were computed once, for fitting a head, and are wanted again for the codes."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .network import NetworkEncoder


class Remembering:
    """An encoder that keeps the features it was fitted on; implements `Encoder`.

    The backbone takes nearly all the time, so photos that a head is fitted on are encoded at
    once afterwards. A feature is found by the SHA-256 of its prepared image; the codes are the
    same bits as without.

    Attributes:
        encoder: unfitted first, fitted after `fit`.
    """

    def __init__(self, encoder: NetworkEncoder) -> None:
        self.encoder = encoder
        self._known: dict[bytes, NDArray[np.float32]] = {}

    @property
    def name(self) -> str:
        return self.encoder.name

    @property
    def bits(self) -> int:
        return self.encoder.bits

    @property
    def feature_dim(self) -> int:
        return self.encoder.feature_dim

    @property
    def config(self) -> Mapping[str, Any]:
        return self.encoder.config

    @property
    def fingerprint(self) -> str:
        return self.encoder.fingerprint

    @property
    def artifact(self) -> bytes | None:
        return self.encoder.artifact

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """As `NetworkEncoder.prepare`."""
        return self.encoder.prepare(image)

    def features(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the features, float32 [N, D], of prepared images, and keep them."""
        found = self.encoder.features(batch)
        self._known |= zip(map(_digest, batch), found, strict=True)
        return found

    def fit(self, features: NDArray[np.float32]) -> None:
        """Fit the head on features, float32 [N, D]; see `NetworkEncoder.fit`."""
        self.encoder = self.encoder.fit(features)

    def encode(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `NetworkEncoder.encode`, computing only the features that are not kept."""
        kept = [self._known.get(_digest(image)) for image in batch]
        new = [row for row, feature in enumerate(kept) if feature is None]
        if new:
            for row, feature in zip(new, self.encoder.features(batch[new]), strict=True):
                kept[row] = feature
        features = np.stack([feature for feature in kept if feature is not None])
        return features, self.encoder.outputs(features)


def _digest(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
