"""Image files into prepared arrays, in processes: where Python's lock would bind threads.

They hand their arrays over in shared memory; each has a thread here that waits for it.
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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ..errors import RetrievalError
from .profiling import Stage
from .reading import CHUNK, Pixels, Prepare, Result, Threads, Wanted, read_one

# From this many processors on threads get into each other's way.
PROCESSES_FROM = 4
# So many chunks are read by threads first: a few photos are read before a process has started.
FEW = 64


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
