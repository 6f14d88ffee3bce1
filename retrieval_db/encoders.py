"""What the database side knows of an encoder: the protocol, and the stored records."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image


@runtime_checkable
class Encoder(Protocol):
    """Turns images into outputs whose signs are the bits of a hash code.

    `prepare` is per image and runs where the image is decoded; `encode` is per batch and
    runs where the network is. Both are deterministic.
    """

    @property
    def name(self) -> str:
        """The name under which codes of this encoder are stored."""

    @property
    def bits(self) -> int:
        """L, the code length: a multiple of 4 from 4 to 256."""

    @property
    def feature_dim(self) -> int | None:
        """D, the length of a feature; None if this encoder has none."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Everything but the weights that the codes depend on; JSON."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over config and weights: equal fingerprints, equal codes."""

    @property
    def artifact(self) -> bytes | None:
        """Safetensors with every weight that is not a published backbone; None if there is none."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Turn one RGB image into the array that `encode` stacks; the same shape for each."""

    def encode(
        self, batch: NDArray[Any]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
        """Encode a stack of prepared images.

        Args:
            batch: [N, ...], the results of `prepare`, stacked.

        Returns:
            features: [N, D] float32, or None if `feature_dim` is None;
            outputs: [N, L] float32; bit i of a code is 1 iff output i > 0.
        """
