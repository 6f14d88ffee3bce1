"""Features that were computed once, for fitting a head, and are wanted again for the codes."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.codes import binarize
from retrieval_db.encoders import Decode

from .devices.inference import Busy
from .network import NetworkEncoder
from .networks.preprocess import Preprocess


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

    @property
    def preparer(self) -> Preprocess:
        """As `NetworkEncoder.preparer`."""
        return self.encoder.preparer

    @property
    def decoder(self) -> Decode | None:
        """As `NetworkEncoder.decoder`."""
        return self.encoder.decoder

    @property
    def stream_workers(self) -> int:
        """As `NetworkEncoder.stream_workers`."""
        return self.encoder.stream_workers

    def feature_stream(
        self, batches: Iterable[NDArray[Any]], busy: Busy
    ) -> Iterator[NDArray[np.float32]]:
        """As `NetworkEncoder.feature_stream`; the features are kept."""
        begun: deque[NDArray[Any]] = deque()

        def noted() -> Iterator[NDArray[Any]]:
            for batch in batches:
                begun.append(batch)
                yield batch

        for found in self.encoder.feature_stream(noted(), busy):
            self._known |= zip(map(_digest, begun.popleft()), found, strict=True)
            yield found

    def encode_stream(
        self, batches: Iterable[NDArray[Any]], busy: Busy
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """As `NetworkEncoder.encode_stream`, computing only the features that are not kept."""
        begun: deque[list[NDArray[np.float32] | None]] = deque()

        def unknown() -> Iterator[NDArray[Any]]:
            for batch in batches:
                kept = [self._known.get(_digest(image)) for image in batch]
                begun.append(kept)
                busy(0.0, sum(feature is not None for feature in kept))
                yield batch[[row for row, feature in enumerate(kept) if feature is None]]

        for new in self.encoder.feature_stream(unknown(), busy):
            features = _filled(begun.popleft(), new)
            yield features, binarize(self.encoder.outputs(features))

    def fit(self, features: NDArray[np.float32]) -> None:
        """Fit the head on features, float32 [N, D]; see `NetworkEncoder.fit`."""
        self.encoder = self.encoder.fit(features)

    def encode(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """As `NetworkEncoder.encode`, computing only the features that are not kept."""
        kept = [self._known.get(_digest(image)) for image in batch]
        new = [row for row, feature in enumerate(kept) if feature is None]
        features = _filled(kept, self.encoder.features(batch[new]) if new else ())
        return features, self.encoder.outputs(features)


def _filled(
    kept: list[NDArray[np.float32] | None], new: Iterable[NDArray[np.float32]]
) -> NDArray[np.float32]:
    """The features that are kept, [N, D], with the new ones where there were none."""
    others = iter(new)
    return np.stack([next(others) if feature is None else feature for feature in kept])


def _digest(image: NDArray[Any]) -> bytes:
    return hashlib.sha256(image.tobytes()).digest()
