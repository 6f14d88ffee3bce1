"""JPEGs decoded by torchcodec and images resized by torch: on the processor, or all of it on CUDA.

On the processor libjpeg-turbo decodes, whose pixels are Pillow's; on CUDA nvJPEG. torch's resize is
quicker than Pillow's and rounds otherwise, and on CUDA again otherwise: so each has a name of its
own in `Preprocess`, and codes of its own.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.errors import EncoderUnavailable, MissingExtra

from ..networks.preprocess import Preprocess
from ..networks.resizing import resized

# torch's types leave out its streams.
cuda: Any = torch.cuda

# A phone's pictures of several frames begin as JPEGs.
JPEGS = ("JPEG", "MPO")
END = b"\xff\xd9"
# Some programs fill the file up behind its end.
TAIL = 64

# Calls that are on CUDA at a time. torchcodec keeps 32 nvJPEG decoders and makes a new one for each
# call beyond them, which takes far longer than decoding; a few keep the device busy.
AT_ONCE = 8


class JpegDecoder:
    """Whole files → what `Preprocess` makes of their images.

    Args:
        preprocess: its decoder is torchcodec or nvjpeg.
        device: where the network runs, and nvJPEG; arrays are handed out on the processor.

    Raises:
        MissingExtra: torchcodec is not installed.
        EncoderUnavailable: it cannot decode a JPEG here.
    """

    def __init__(self, preprocess: Preprocess, device: torch.device) -> None:
        self.preprocess = preprocess
        self.device = device if preprocess.decoder == "nvjpeg" else torch.device("cpu")
        if preprocess.decoder == "nvjpeg" and device.type != "cuda":
            raise EncoderUnavailable(
                "This encoder's photos are decoded by nvJPEG, so it wants a CUDA GPU, and its "
                f"network is on {device.type}. A new encoder can have another --decoder."
            )
        self._streams: SimpleQueue[Any] = SimpleQueue()
        try:
            self._decode = _library().decode_jpeg
            for _ in range(AT_ONCE if self.device.type == "cuda" else 0):
                self._streams.put(cuda.Stream(self.device))
            with self._beside():
                self._resized(self._decode([_tiny()], device=self.device))
        except MissingExtra:
            raise
        # A driver, a library or a build that is not there raises nearly anything. Found out here,
        # it cannot be taken for broken files later.
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise EncoderUnavailable(
                f"The decoder {preprocess.decoder} does not work on {self.device.type} here "
                f"({reason}). Install the torchcodec that belongs to this torch, for a GPU the one "
                "for its CUDA; or make a new encoder with another --decoder."
            ) from error

    def __call__(self, files: Sequence[bytes]) -> list[NDArray[np.uint8] | None]:
        """Each file's image, uint8 [3, S, S]; None for one that Pillow is to open.

        Those are other formats, colours that JPEG has besides grey and RGB, and broken files,
        of which Pillow knows what is wrong with them.
        """
        found: list[NDArray[np.uint8] | None] = [None] * len(files)
        rows = [row for row, file in enumerate(files) if _is_usual(file)]
        if not rows:
            return found
        with self._beside():
            images = self._decoded([files[row] for row in rows])
            decoded = {
                row: image for row, image in zip(rows, images, strict=True) if image is not None
            }
            arrays = self._resized(list(decoded.values())) if decoded else ()
        for row, array in zip(decoded, arrays, strict=True):
            found[row] = array
        return found

    def _decoded(self, files: list[bytes]) -> list[torch.Tensor | None]:
        """Each file's image on the device; None for one that torchcodec refuses."""
        try:
            return list(self._decode(files, device=self.device))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:
            # One bad file fails all of them; an image does not depend on its neighbours.
            if len(files) > 1:
                return [image for file in files for image in self._decoded([file])]
            # It is the file, not the device, if another one is decoded.
            self._decode([_tiny()], device=self.device)
            return [None]

    def _resized(self, images: Sequence[torch.Tensor]) -> NDArray[np.uint8]:
        own = self.preprocess
        whole = torch.stack(
            [resized(image, own.input_size, own.crop, own.interpolation) for image in images]
        )
        arrays: NDArray[np.uint8] = whole.cpu().numpy()
        return arrays

    @contextmanager
    def _beside(self) -> Iterator[None]:
        """On CUDA a stream that nobody else uses now, so that the network's is not waited for."""
        if self.device.type != "cuda":
            yield
            return
        stream = self._streams.get()
        try:
            with cuda.stream(stream):
                yield
        finally:
            self._streams.put(stream)


def _library() -> Any:
    """torchcodec's decoders.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        from torchcodec import decoders
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "The decoders torchcodec and nvjpeg need torchcodec: "
            "pip install 'retrieval-db[torchcodec]'."
        ) from error
    return decoders


def _tiny() -> bytes:
    """A JPEG that is whole."""
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16)).save(buffer, "JPEG")
    return buffer.getvalue()


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
