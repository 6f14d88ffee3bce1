"""Perceptual hashes: encoders without a network, weights or torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.errors import FormatError, UsageError

from . import checkpoint

HIGHFREQ_FACTOR = 4


@dataclass(frozen=True)
class PerceptualHash:
    """The DCT hash "phash" of the ImageHash package, of 64 or 256 bits.

    The image is made grey and resized to (4·S)², S = √bits; a bit is 1 iff its coefficient
    among the S² lowest frequencies of the DCT exceeds their median. It finds recompressed,
    resized, blurred, slightly brightened copies, not similar content.

    Source: N. Krawetz, "Looks Like It", 2011, as implemented by `imagehash.phash`.
    """

    bits: int = 64
    name: str = ""

    SIDES: ClassVar[Mapping[int, int]] = {64: 8, 256: 16}

    def __post_init__(self) -> None:
        if self.bits not in self.SIDES:
            raise UsageError(f"phash has 64 or 256 bits, not {self.bits}.")
        if not self.name:
            object.__setattr__(self, "name", f"phash{self.bits}")

    @property
    def fitted(self) -> bool:
        return True

    @property
    def feature_dim(self) -> None:
        return None

    @property
    def config(self) -> dict[str, Any]:
        return {
            "kind": "phash",
            "method": "phash",
            "bits": self.bits,
            "algorithm": "ImageHash.phash",
            "hash_size": self.SIDES[self.bits],
            "highfreq_factor": HIGHFREQ_FACTOR,
        }

    @property
    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.config, {})

    @property
    def artifact(self) -> None:
        return None

    def prepare(self, image: Image.Image) -> NDArray[np.bool_]:
        """Hash one image: bool [bits], in the order of ImageHash's hex text."""
        # Late: imagehash brings scipy.fftpack, which `--help` does not need.
        import imagehash

        side = self.SIDES[self.bits]
        digest = imagehash.phash(image, hash_size=side, highfreq_factor=HIGHFREQ_FACTOR)
        return np.asarray(digest.hash, dtype=np.bool_).reshape(self.bits)

    @property
    def preparer(self) -> PerceptualHash:
        """What `prepare` does, as an object that can be sent to another process."""
        return self

    def __call__(self, image: Image.Image) -> NDArray[np.bool_]:
        return self.prepare(image)

    def encode(self, batch: NDArray[Any]) -> tuple[None, NDArray[np.float32]]:
        """Turn hashes, bool [N, bits], into outputs of ±1, float32 [N, bits]."""
        hashes = np.asarray(batch, dtype=np.bool_).reshape(-1, self.bits)
        return None, np.where(hashes, np.float32(1), np.float32(-1))


def from_config(name: str, config: Mapping[str, Any]) -> PerceptualHash:
    """Make the encoder that has this config.

    Raises:
        FormatError: no hash that this program makes has it.
    """
    bits = config.get("bits")
    if not isinstance(bits, int) or bits not in PerceptualHash.SIDES:
        raise FormatError(f"Encoder {name!r}: there is no perceptual hash of {bits!r} bits.")
    encoder = PerceptualHash(bits, name)
    if encoder.config != dict(config):
        raise FormatError(f"Encoder {name!r} is a perceptual hash that this program cannot make.")
    return encoder
