"""Sequences of images that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import photos


class Images(Protocol):
    """N images. Safe to use from several threads, and it pickles."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int) -> Image.Image:
        """Decode one image: upright, RGB.

        Raises:
            ImageError: its file is broken.
        """

    def sha256(self, index: int) -> bytes:
        """SHA-256 (32 bytes) of what is stored of an image: its file, or its pixels.

        Raises:
            ImageError: its file cannot be read.
        """

    def path(self, index: int) -> str:
        """Where the image is, or a name that tells it from the others."""


@dataclass(frozen=True)
class Files:
    """Images in files of their own; `sha256` is the `content_sha256` of an indexed photo."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Image.Image:
        path = self.paths[index]
        return photos.decode(photos.content(path), path)

    def sha256(self, index: int) -> bytes:
        return photos.sha256(photos.content(self.paths[index]))

    def path(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class Encoded:
    """Image files one after the other in one array; `sha256` is that of such a file.

    Attributes:
        name: of the array, for `path`.
        data: their bytes, uint8.
        offsets: int64 [N + 1]; image i is `data[offsets[i]:offsets[i + 1]]`.
    """

    name: str
    data: NDArray[np.uint8]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Image.Image:
        return photos.decode(self._bytes(index), Path(self.path(index)))

    def sha256(self, index: int) -> bytes:
        return photos.sha256(self._bytes(index))

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"

    def _bytes(self, index: int) -> bytes:
        return self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()


@dataclass(frozen=True)
class Pixels:
    """Images as one array; `sha256` is that of an image's pixels.

    Attributes:
        name: of the array, for `path`.
        data: uint8 [N, H, W, 3], or grey [N, H, W].
    """

    name: str
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> Image.Image:
        return Image.fromarray(self.data[index]).convert("RGB")

    def sha256(self, index: int) -> bytes:
        return photos.sha256(self.data[index].tobytes())

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"
