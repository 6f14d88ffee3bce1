"""Runs a backbone so that the features of an image do not depend on its neighbours."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval_db.errors import UsageError

from ..networks.preprocess import Preprocess
from .cuda import CudaStream
from .graphs import folded, recorded

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cuda", "mps", "cpu")
GPU_BATCH = 32

# Of a stream's consumer: it is told how long the network worked, and on how many images.
Busy = Callable[[float, int], None]
Finish = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]

_threads_lock = threading.Lock()
_threads_users = 0
_threads_before = 1


def resolve_device(device: str) -> torch.device:
    """The device that is meant; `auto` takes cuda, then mps, then cpu.

    Raises:
        UsageError: unknown, or not there.
    """
    available = {
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
        "cpu": True,
    }
    if device == "auto":
        return torch.device(next(name for name, there in available.items() if there))
    kind = device.split(":", 1)[0]
    if kind not in available:
        raise UsageError(f"Unknown device {device!r}; there are {', '.join(DEVICES)}.")
    if not available[kind]:
        raise UsageError(f"This machine has no {kind} device that torch can use: --device cpu.")
    return torch.device(device)


@contextmanager
def one_thread_each() -> Iterator[int]:
    """torch computes with one thread per caller; yields how many callers make sense.

    Sums are split over a network's threads, so that features differ in the last place with
    the number of threads. One thread an image, images side by side, avoids that. The setting
    belongs to the process: the first to come makes it, the last to leave puts it back.
    """
    global _threads_users, _threads_before
    with _threads_lock:
        if not _threads_users:
            _threads_before = torch.get_num_threads()
            torch.set_num_threads(1)
        _threads_users += 1
        threads = _threads_before
    try:
        yield threads
    finally:
        with _threads_lock:
            _threads_users -= 1
            if not _threads_users:
                torch.set_num_threads(_threads_before)


class Runner:
    """A backbone on a device: uint8 [N, C, S, S] → float32 [N, D].

    The kernels that run depend on the shape of the batch, and with them the last places of a
    feature, which is enough to flip a bit whose output is near 0. So the shape is always the
    same: on a CPU one image at a time, on other devices batches of `GPU_BATCH`, the last one
    filled up with black images.
    """

    def __init__(
        self,
        module: nn.Module,
        preprocess: Preprocess,
        device: str,
        precision: str,
        *,
        record: bool = True,
    ) -> None:
        self.device = resolve_device(device)
        self.dtype = PRECISIONS[precision]
        self.module = folded(module).to(
            device=self.device,
            dtype=self.dtype,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        shape = (1, preprocess.channels, 1, 1)
        self.shape = (preprocess.channels, preprocess.input_size, preprocess.input_size)
        self.mean = torch.tensor(preprocess.mean, device=self.device).view(shape) * 255
        self.std = torch.tensor(preprocess.std, device=self.device).view(shape) * 255
        self.flip = preprocess.flip
        # Layer by layer, on request, for comparisons.
        if record and self.device.type == "cpu":
            with one_thread_each():
                self.module = recorded(self.module, self._sample())

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        images = self._images(batch)
        if self.device.type == "cpu":
            with one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(self._features, torch.split(images, 1)))
        else:
            with exact_kernels():
                parts = [self._padded(part) for part in torch.split(images, GPU_BATCH)]
        return torch.cat(parts).numpy()

    @property
    def workers(self) -> int:
        """How many images a stream computes side by side."""
        return torch.get_num_threads() if self.device.type == "cpu" else 1

    def stream(
        self, batches: Iterable[NDArray[np.uint8]], finish: Finish, busy: Busy
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        """The features of batches in order, the next batch begun before one is handed out.

        On CUDA the copies to and from the device run beside the network.

        Args:
            batches: uint8 [N, C, S, S].
            finish: features float32 [N, D], on the device → what is wanted of them.
            busy: told the processor time, on other devices their time, and images.

        Yields:
            What `finish` returned, as NumPy arrays.
        """
        if self.device.type == "cpu":
            yield from self._stream_on_cpu(batches, finish, busy)
        elif self.device.type == "cuda":
            cuda = CudaStream(self.device, (GPU_BATCH, *self.shape), self.forward, finish, busy)
            with exact_kernels():
                yield from cuda.run(map(self._images, batches))
        else:
            for batch in batches:
                started = time.perf_counter()
                found = finish(torch.from_numpy(self(batch)))
                busy(time.perf_counter() - started, len(batch))
                yield tuple(tensor.numpy() for tensor in found)

    def _stream_on_cpu(
        self, batches: Iterable[NDArray[np.uint8]], finish: Finish, busy: Busy
    ) -> Iterator[tuple[NDArray[Any], ...]]:
        def features(image: torch.Tensor) -> torch.Tensor:
            started = time.thread_time()
            found = self._features(image)
            busy(time.thread_time() - started, len(image))
            return found

        def results(futures: list[Future[torch.Tensor]]) -> tuple[NDArray[Any], ...]:
            whole = torch.cat([future.result() for future in futures])
            return tuple(tensor.numpy() for tensor in finish(whole))

        begun: deque[list[Future[torch.Tensor]]] = deque()
        with one_thread_each() as threads:
            pool = ThreadPoolExecutor(threads, thread_name_prefix="network")
            try:
                for batch in batches:
                    images = torch.split(self._images(batch), 1)
                    begun.append([pool.submit(features, image) for image in images])
                    if len(begun) > 1:
                        yield results(begun.popleft())
                while begun:
                    yield results(begun.popleft())
            finally:
                pool.shutdown(cancel_futures=True)

    def _sample(self) -> torch.Tensor:
        """An image of noise, as the network gets it."""
        noise = torch.rand(1, *self.shape, generator=torch.Generator().manual_seed(0))
        return noise.to(dtype=self.dtype, memory_format=torch.channels_last)

    def _images(self, batch: NDArray[np.uint8]) -> torch.Tensor:
        """Prepared images as a tensor, without copying.

        Raises:
            ValueError: `prepare` did not make them.
        """
        if batch.dtype != np.uint8 or batch.shape[1:] != self.shape:
            raise ValueError(
                f"expected prepared images, uint8 [N, {', '.join(map(str, self.shape))}], "
                f"not {batch.dtype} {list(batch.shape)}"
            )
        # Pillow's arrays are read-only, which torch warns of.
        return torch.from_numpy(np.require(batch, requirements=["C", "W"]))

    def _padded(self, images: torch.Tensor) -> torch.Tensor:
        count = len(images)
        if count < GPU_BATCH:
            filling = images.new_zeros(GPU_BATCH - count, *images.shape[1:])
            images = torch.cat([images, filling])
        return self._features(images)[:count]

    def _features(self, images: torch.Tensor) -> torch.Tensor:
        return self.forward(images.to(self.device)).cpu()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Images uint8 [N, C, S, S] → features float32 [N, D], all on the device."""
        with torch.inference_mode():
            x = (images.float() - self.mean) / self.std
            x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
            features: torch.Tensor = self.module(x).float()
            if self.flip:
                features = (features + self.module(x.flip(-1)).float()) / 2
            return features


@contextmanager
def exact_kernels() -> Iterator[None]:
    """TF32 and cuDNN's choice by timing would change bits from run to run."""
    with torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    ):
        yield
