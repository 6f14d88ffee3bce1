"""Image files into prepared arrays: in threads, or in processes where Python's lock would bind.

Pillow decodes and resizes without the lock, so threads are enough for a few processors. Worker
processes hand their arrays over in shared memory; each has a thread here that waits for it.
"""

from __future__ import annotations

import itertools
import mmap
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any, Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .. import photos
from ..errors import ImageError, RetrievalError
from ..photos import Item
from .profiling import Stage

# Images that a worker reads at a time, and that are read ahead for each worker.
CHUNK = 8
AHEAD = 4

# From this many processors on threads get into each other's way.
PROCESSES_FROM = 4
# So many chunks are read by threads first: a few photos are read before a process has started.
FEW = 64

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


@dataclass
class Processes:
    """Reads in worker processes, one for each thread that calls it, once there are many images.

    A worker is a fresh interpreter: forking would copy locks of threads, and a library must
    not import its caller's program again. It ends when its standard input does, even if this
    process was killed.

    Attributes:
        prepare: is pickled.
    """

    prepare: Prepare
    reading: Stage
    decoding: Stage
    _local: threading.local = field(default_factory=threading.local, init=False)
    _workers: list[_Worker] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._here = Threads(self.prepare, self.reading, self.decoding)
        self._calls = itertools.count()
        # The same shape for each image, says the protocol.
        self._sample = self.prepare(Image.new("RGB", (64, 64)))

    def __call__(self, wanted: Sequence[Wanted]) -> list[Result]:
        if next(self._calls) < FEW:
            return self._here(wanted)
        worker: _Worker | None = getattr(self._local, "worker", None)
        if worker is None:
            worker = _Worker(self.prepare, self._sample)
            self._local.worker = worker
            self._workers.append(worker)
        return worker.read(wanted, self.reading, self.decoding)

    def close(self) -> None:
        for worker in self._workers:
            worker.close()


START = (
    "import sys, pickle; sys.path[:] = pickle.load(sys.stdin.buffer); "
    f"from {__name__} import serve; serve()"
)


class _Worker:
    """A worker process and the memory that it shares with this one."""

    def __init__(self, prepare: Prepare, sample: NDArray[Any]) -> None:
        self.shape, self.dtype = sample.shape, sample.dtype
        with _shared_file() as file:
            size = CHUNK * max(sample.nbytes, 1)
            os.ftruncate(file.fileno(), size)
            self.memory = mmap.mmap(file.fileno(), size)
            self.process = subprocess.Popen(
                [sys.executable, "-c", START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=[file.fileno()],
            )
            for message in (sys.path, (file.fileno(), size, prepare, Image.MAX_IMAGE_PIXELS)):
                self._send(message)

    def read(self, wanted: Sequence[Wanted], reading: Stage, decoding: Stage) -> list[Result]:
        self._send(list(wanted))
        assert self.process.stdout is not None
        try:
            results, spent = pickle.load(self.process.stdout)
        except (EOFError, OSError, pickle.UnpicklingError) as error:
            raise RetrievalError(
                "A reader process ended by itself, as it does where memory is short: take fewer "
                "with --workers, or --threads. The same command continues."
            ) from error
        if isinstance(results, BaseException):
            raise results
        reading.add(*spent[0])
        decoding.add(*spent[1])
        arrays = np.frombuffer(self.memory, self.dtype, count=-1).reshape(CHUNK, *self.shape)
        return [
            Pixels(result, arrays[row].copy()) if isinstance(result, bytes) else result
            for row, result in enumerate(results)
        ]

    def close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            # What a dead one was not sent any more.
            with suppress(BrokenPipeError):
                pipe.close()
        self.process.wait()

    def _send(self, message: object) -> None:
        assert self.process.stdin is not None
        # That it is dead, its answer tells.
        with suppress(BrokenPipeError):
            pickle.dump(message, self.process.stdin)
            self.process.stdin.flush()


def _shared_file() -> IO[bytes]:
    """A file in memory without a name; on systems without such, one on disk."""
    if hasattr(os, "memfd_create"):
        return os.fdopen(os.memfd_create("retrieval-db"), "w+b")
    return tempfile.TemporaryFile()


def serve() -> None:
    """What a worker process does: read chunks until its standard input ends."""
    # Ctrl-C reaches the whole group; the parent decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    number, size, prepare, Image.MAX_IMAGE_PIXELS = pickle.load(requests)
    # What is odd about a file is the parent's to tell.
    warnings.simplefilter("ignore")
    memory = mmap.mmap(number, size)
    while True:
        try:
            wanted = pickle.load(requests)
        except EOFError:
            return
        reading, decoding = Stage("read"), Stage("decode")
        results: list[Result | bytes] | Exception = []
        try:
            found = [read_one(one, prepare, reading, decoding) for one in wanted]
            results = [_shared(memory, row, result) for row, result in enumerate(found)]
        except Exception as error:
            results = error
        spent = [(stage.seconds, stage.images) for stage in (reading, decoding)]
        try:
            pickle.dump((results, spent), answers)
            answers.flush()
        except BrokenPipeError:
            return


def _shared(memory: mmap.mmap, row: int, result: Result) -> Result | bytes:
    """Put an array where the parent finds it: the hash alone says that it is there."""
    room = len(memory) // CHUNK
    if not isinstance(result, Pixels) or result.array.nbytes != room:
        return result
    memory[row * room : (row + 1) * room] = result.array.tobytes()
    return result.sha256


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
