"""Images of a data set read, hashed and prepared for an encoder, in threads that work ahead."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db.encoders import Decode, Encoder, decoder_of
from retrieval_db.errors import ImageError

from .datasets import Images
from .datasets.images import Stored

AHEAD = 16  # images that are read ahead for each thread


@dataclass(frozen=True)
class Ready:
    """An image as its encoder takes it.

    Attributes:
        row: which of the images.
        sha256: 32 bytes; see `Stored`.
        array: what `Encoder.prepare` gives; None where that is not wanted.
    """

    row: int
    sha256: bytes
    array: NDArray[Any] | None


def read(
    encoder: Encoder,
    images: Images,
    rows: NDArray[np.int64],
    *,
    known: Callable[[bytes], bool] = lambda sha256: False,
) -> Iterator[Ready | str]:
    """Each image in order, read once, with flat memory; of a broken one what is wrong with it.

    Args:
        encoder: decodes the files where it does so by itself.
        rows: which images, int64 [N].
        known: by its SHA-256, whether an image need not be prepared.
    """
    decoder = decoder_of(encoder)

    def one(row: int) -> Ready | str:
        try:
            stored = images.read(row)
            array = None if known(stored.sha256) else _prepared(stored, encoder, decoder)
            return Ready(row, stored.sha256, array)
        except ImageError as error:
            return str(error)

    threads = os.cpu_count() or 1
    waiting: deque[Future[Ready | str]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="reader")
    try:
        for row in rows.tolist():
            waiting.append(pool.submit(one, row))
            if len(waiting) > AHEAD * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def none_readable(skipped: Sequence[str]) -> ImageError:
    """The error where no image was read; most often a list's names begin in another folder."""
    return ImageError(
        f"None of the images can be read. The first: {skipped[0]}. If a list names them, --root "
        "names their folder."
    )


def _prepared(stored: Stored, encoder: Encoder, decoder: Decode | None) -> NDArray[Any]:
    array = None if decoder is None or stored.file is None else decoder([stored.file])[0]
    return encoder.prepare(stored.decode()) if array is None else array
