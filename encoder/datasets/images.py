"""Sequences of images that are decoded when they are asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import photos


@dataclass(frozen=True)
class Stored:
    """One image as it is stored.

    Attributes:
        sha256: 32 bytes, of its file, or of its pixels.
        file: the content of its file; None where pixels are stored.
        decode: makes it an image, upright, RGB; raises ImageError if its file is broken.
    """

    sha256: bytes
    file: bytes | None
    decode: Callable[[], Image.Image]

    @classmethod
    def of_file(cls, content: bytes, path: Path) -> Stored:
        return cls(photos.sha256(content), content, partial(photos.decode, content, path))


class Images(Protocol):
    """N images. Safe to use from several threads, and it pickles."""

    def __len__(self) -> int:
        """N."""

    def __getitem__(self, index: int) -> Image.Image:
        """Decode one image: upright, RGB.

        Raises:
            ImageError: its file is broken.
        """
        return self.read(index).decode()

    def read(self, index: int) -> Stored:
        """Read and hash what is stored of an image, without decoding it.

        Raises:
            ImageError: its file cannot be read.
        """

    def path(self, index: int) -> str:
        """Where the image is, or a name that tells it from the others."""


@dataclass(frozen=True)
class Files(Images):
    """Images in files of their own; their SHA-256 is the `content_sha256` of an indexed photo."""

    paths: Sequence[Path]

    def __len__(self) -> int:
        return len(self.paths)

    def read(self, index: int) -> Stored:
        path = self.paths[index]
        return Stored.of_file(photos.content(path), path)

    def path(self, index: int) -> str:
        return str(self.paths[index])


@dataclass(frozen=True)
class Encoded(Images):
    """Image files one after the other in one array.

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

    def read(self, index: int) -> Stored:
        content = self.data[self.offsets[index] : self.offsets[index + 1]].tobytes()
        return Stored.of_file(content, Path(self.path(index)))

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"


@dataclass(frozen=True)
class Pixels(Images):
    """Images as one array.

    Attributes:
        name: of the array, for `path`.
        data: uint8 [N, H, W, 3], or grey [N, H, W].
    """

    name: str
    data: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.data)

    def read(self, index: int) -> Stored:
        pixels = self.data[index]

        def image() -> Image.Image:
            return Image.fromarray(pixels).convert("RGB")

        return Stored(photos.sha256(pixels.tobytes()), None, image)

    def path(self, index: int) -> str:
        return f"{self.name}/{index}"
