"""JPEGs decoded by torchcodec and images resized by torch, on the device where the network runs.

On CUDA nvJPEG decodes, on a processor libjpeg-turbo, whose pixels are Pillow's. torch's resize
is quicker than Pillow's and rounds otherwise, so the codes are others, too.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.errors import MissingExtra

from ..networks.preprocess import Preprocess
from ..networks.resizing import resized

# torch's types leave out its streams.
cuda: Any = torch.cuda

# A phone's pictures of several frames begin as JPEGs.
JPEGS = ("JPEG", "MPO")
END = b"\xff\xd9"
# Some programs fill the file up behind its end.
TAIL = 64


@dataclass(frozen=True)
class JpegDecoder:
    """Whole files → what `Preprocess` makes of their images.

    Attributes:
        preprocess: of three channels.
        device: cuda, or cpu; arrays are handed out on the processor.

    Raises:
        MissingExtra: torchcodec is not installed.
    """

    preprocess: Preprocess
    device: torch.device

    def __post_init__(self) -> None:
        _library()

    def __call__(self, files: Sequence[bytes]) -> list[NDArray[np.uint8] | None]:
        """Each file's image, uint8 [3, S, S]; None for one that Pillow is to open.

        Those are other formats, colours that JPEG has besides grey and RGB, and broken files,
        of which Pillow knows what is wrong with them.
        """
        found: list[NDArray[np.uint8] | None] = [None] * len(files)
        rows = [row for row, file in enumerate(files) if _is_usual(file)]
        if not rows:
            return found
        try:
            arrays = self._arrays([files[row] for row in rows])
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # One bad file fails all of them; an image does not depend on its neighbours.
            if len(files) > 1:
                return [self([file])[0] for file in files]
            return found
        for row, array in zip(rows, arrays, strict=True):
            found[row] = array
        return found

    def _arrays(self, files: list[bytes]) -> NDArray[np.uint8]:
        # On a stream of its own, so that the network's is not waited for.
        beside = self.device.type == "cuda"
        own = self.preprocess
        with cuda.stream(cuda.Stream(self.device)) if beside else nullcontext():
            images = _library().decode_jpeg(files, device=self.device)
            whole = torch.stack(
                [resized(image, own.input_size, own.crop, own.interpolation) for image in images]
            )
            arrays: NDArray[np.uint8] = whole.cpu().numpy()
        return arrays


def _library() -> Any:
    """torchcodec's decoders.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from torchcodec import decoders
    except ImportError as error:
        raise MissingExtra(
            "The decoder torchcodec needs torchcodec: pip install 'retrieval-db[torchcodec]'."
        ) from error
    return decoders


def _is_usual(file: bytes) -> bool:
    """Whether a file is a whole JPEG, grey or RGB."""
    try:
        with Image.open(io.BytesIO(file)) as image:
            usual = image.format in JPEGS and image.mode in ("RGB", "L")
    # Pillow raises nearly anything on broken files.
    except Exception:
        return False
    # nvJPEG may fill up what is missing; a file without an end is Pillow's to refuse.
    return usual and END in file[-TAIL:]
