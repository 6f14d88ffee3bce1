"""How busy each stage of an index run was, and which of them the others waited for."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass
class Stage:
    """A stage of a pipeline and how long it worked; threads may share it.

    Time that a stage waits for another one does not count, nor does time in which another
    thread had its processor, except in `waiting`, which is for work that is waiting itself:
    for a disk, a server, a GPU.

    Attributes:
        name: what it does.
        workers: how many threads or processes do it side by side.
        images: how many passed it.
        seconds: that it worked, summed over its workers.
    """

    name: str
    workers: int = 1
    images: int = 0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        # No field of its own: a report of stages is copied and printed.
        self._lock = threading.Lock()

    def add(self, seconds: float, images: int = 0) -> None:
        """Count work that was timed elsewhere."""
        with self._lock:
            self.seconds += seconds
            self.images += images

    @contextmanager
    def working(self, images: int = 0) -> Iterator[None]:
        """Count this thread's processor time."""
        started = time.thread_time()
        try:
            yield
        finally:
            self.add(time.thread_time() - started, images)

    @contextmanager
    def waiting(self, images: int = 0) -> Iterator[None]:
        """Count wall time."""
        started = time.perf_counter()
        try:
            yield
        finally:
            self.add(time.perf_counter() - started, images)

    @property
    def rate(self) -> float | None:
        """Images a second if this stage had the machine to itself; None if it did nothing."""
        if not self.images or not self.seconds:
            return None
        return self.images * self.workers / self.seconds


@dataclass
class Profile:
    """The stages of an index run, in the order that an image passes them.

    Attributes:
        read: files and their hashes, wall time.
        decode: decoding and resizing, processor time.
        encode: the network (or the perceptual hash's last step); processor time on a CPU,
            the device's time on a GPU.
        write: COPY and commit, wall time.
        seconds: wall time of the run, without building indexes afterwards.
    """

    read: Stage = field(default_factory=lambda: Stage("read"))
    decode: Stage = field(default_factory=lambda: Stage("decode"))
    encode: Stage = field(default_factory=lambda: Stage("encode"))
    write: Stage = field(default_factory=lambda: Stage("write"))
    seconds: float = 0.0

    @property
    def stages(self) -> Sequence[Stage]:
        return (self.read, self.decode, self.encode, self.write)

    def share(self, stage: Stage) -> float:
        """The part of the run in which a stage's workers were busy, 0 to 1."""
        whole = stage.workers * self.seconds
        return stage.seconds / whole if whole else 0.0

    @property
    def bottleneck(self) -> Stage | None:
        """The stage that would take longest by itself; None if nothing was done."""
        slowest = max(self.stages, key=lambda stage: stage.seconds / stage.workers)
        return slowest if slowest.seconds else None
