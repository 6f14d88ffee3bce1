"""Image files into prepared arrays, in threads.

Pillow decodes and resizes without Python's lock, so threads are enough for a few processors; from
there on `processes` reads in worker processes.
"""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol

from numpy.typing import NDArray
from PIL import Image

from .. import photos
from ..encoders import Decode
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
class File:
    """The content of an image file, and its SHA-256, 32 bytes."""

    data: bytes
    sha256: bytes


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
    file = fetch(wanted, reading)
    return decode(wanted, file, prepare, decoding) if isinstance(file, File) else file


def fetch(wanted: Wanted, reading: Stage) -> File | Skipped | None:
    """Read and hash one image file; None if its content is what is known."""
    try:
        with reading.waiting(1):
            data = wanted.item.content()
            digest = photos.sha256(data)
    except ImageError as error:
        return _skipped(wanted, error)
    return None if wanted.known == digest else File(data, digest)


def decode(wanted: Wanted, file: File, prepare: Prepare, decoding: Stage) -> Pixels | Skipped:
    """Decode and prepare one image."""
    path = wanted.item.path
    try:
        with decoding.working(1):
            return Pixels(file.sha256, prepared(prepare, photos.decode(file.data, path), path))
    except ImageError as error:
        return _skipped(wanted, error)


def _skipped(wanted: Wanted, error: ImageError) -> Skipped:
    title = photos.printable(wanted.item.path)
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


@dataclass
class Together(Threads):
    """Reads in the threads that call it; the encoder decodes what it can of a chunk at once."""

    decoder: Decode

    def __call__(self, wanted: Sequence[Wanted]) -> list[Result]:
        found = [fetch(one, self.reading) for one in wanted]
        files = [file for file in found if isinstance(file, File)]
        started = time.thread_time()
        arrays = self.decoder([file.data for file in files])
        decoded = sum(array is not None for array in arrays)
        self.decoding.add(time.thread_time() - started, decoded)
        left = iter(arrays)
        results: list[Result] = []
        for one, file in zip(wanted, found, strict=True):
            if not isinstance(file, File):
                results.append(file)
            elif (array := next(left)) is not None:
                results.append(Pixels(file.sha256, array))
            else:
                results.append(decode(one, file, self.prepare, self.decoding))
        return results


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
