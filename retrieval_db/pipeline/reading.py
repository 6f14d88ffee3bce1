"""Image files into prepared arrays, in threads.

Pillow decodes and resizes without Python's lock, so threads are enough for a few processors; from
there on `processes` reads in worker processes.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from PIL import Image

from .. import photos
from ..errors import ImageError, RetrievalError
from ..photos import Item
from .profiling import Stage

# Images that a worker reads at a time, and that are read ahead for each worker.
CHUNK = 8
AHEAD = 4

Prepare = Callable[[Image.Image], NDArray[Any]]

# A file that could not be read, and why.
Skipped = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Wanted:
    """An image to be read, and what the database knows of it.

    Attributes:
        item: where it is.
        name: under which it is stored.
        known: SHA-256 of the content whose code is stored, or None.
        known_label: the label that is stored, or None.
    """

    item: Item
    name: str
    known: bytes | None = None
    known_label: str | None = None


@dataclass(frozen=True, slots=True)
class Pixels:
    """What an image file holds.

    Attributes:
        sha256: of the file's bytes, 32 bytes.
        array: what `Encoder.prepare` returned.
    """

    sha256: bytes
    array: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Prepared:
    """An image file, read and made ready for the encoder."""

    wanted: Wanted
    pixels: Pixels


@dataclass(frozen=True, slots=True)
class Unchanged:
    """An image file whose stored code is up to date."""

    wanted: Wanted


Outcome = Prepared | Unchanged | Skipped
Result = Pixels | Skipped | None


class Reader(Protocol):
    """Reads a chunk of images; called from several threads."""

    def __call__(self, wanted: Sequence[Wanted]) -> list[Result]:
        """What each image holds, None if it is unchanged, or why it is skipped."""

    def close(self) -> None:
        """End what it started."""


def read(
    wanted: Iterable[Wanted | Skipped],
    reader: Reader,
    workers: int,
) -> Generator[Outcome, None, None]:
    """Read images ahead, and yield what became of them in their order."""
    ahead: deque[tuple[list[Wanted | Skipped], Future[list[Result]]]] = deque()
    pool = ThreadPoolExecutor(workers, thread_name_prefix="reader")
    try:
        for chunk in _chunks(wanted):
            task = [one for one in chunk if isinstance(one, Wanted)]
            ahead.append((chunk, pool.submit(reader, task)))
            if len(ahead) > AHEAD * workers:
                yield from _outcomes(*ahead.popleft())
        while ahead:
            yield from _outcomes(*ahead.popleft())
    finally:
        pool.shutdown(cancel_futures=True)
        reader.close()


def _chunks(wanted: Iterable[Wanted | Skipped]) -> Iterator[list[Wanted | Skipped]]:
    chunk: list[Wanted | Skipped] = []
    for one in wanted:
        chunk.append(one)
        if len(chunk) == CHUNK:
            yield chunk
            chunk = []
    if chunk:
        yield chunk


def _outcomes(chunk: list[Wanted | Skipped], future: Future[list[Result]]) -> Iterator[Outcome]:
    results = iter(future.result())
    for one in chunk:
        if not isinstance(one, Wanted):
            yield one
            continue
        result = next(results)
        if result is None:
            yield Unchanged(one)
        elif isinstance(result, Pixels):
            yield Prepared(one, result)
        else:
            yield result


def read_one(wanted: Wanted, prepare: Prepare, reading: Stage, decoding: Stage) -> Result:
    """Read, hash, decode and prepare one image; whatever is wrong with it, the others go on."""
    path = wanted.item.path
    try:
        with reading.waiting(1):
            data = wanted.item.content()
            digest = photos.sha256(data)
        if wanted.known == digest:
            return None
        with decoding.working(1):
            return Pixels(digest, prepared(prepare, photos.decode(data, path), path))
    except ImageError as error:
        title = photos.printable(path)
        return title, str(error).removeprefix(f"{title}: ")


def prepared(prepare: Prepare, image: Image.Image, path: object) -> NDArray[Any]:
    """Prepare one decoded image.

    Raises:
        ImageError: the encoder cannot take it.
    """
    try:
        return prepare(image)
    except (ImportError, RetrievalError):
        raise
    except Exception as error:
        title = photos.printable(str(path))
        raise ImageError(f"{title}: cannot be prepared ({error})") from error


@dataclass
class Threads:
    """Reads in the threads that call it."""

    prepare: Prepare
    reading: Stage
    decoding: Stage

    def __call__(self, wanted: Sequence[Wanted]) -> list[Result]:
        return [read_one(one, self.prepare, self.reading, self.decoding) for one in wanted]

    def close(self) -> None:
        pass


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
