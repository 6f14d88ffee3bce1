"""Runs a backbone so that the features of an image do not depend on its neighbours."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval_db.errors import UsageError

from .preprocess import Preprocess

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}
DEVICES = ("auto", "cuda", "mps", "cpu")
GPU_BATCH = 32

_threads_lock = threading.Lock()


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
    the number of threads. One thread an image, images side by side, avoids that, and is
    faster as well. The setting belongs to the process, hence the lock.
    """
    with _threads_lock:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield threads
        finally:
            torch.set_num_threads(threads)


class Runner:
    """A backbone on a device: uint8 [N, C, S, S] → float32 [N, D].

    The kernels that run depend on the shape of the batch, and with them the last places of a
    feature, which is enough to flip a bit whose output is near 0. So the shape is always the
    same: on a CPU one image at a time (measured as fast as any batch), on other devices
    batches of `GPU_BATCH`, the last one filled up with black images.
    """

    def __init__(
        self, module: nn.Module, preprocess: Preprocess, device: str, precision: str
    ) -> None:
        self.device = resolve_device(device)
        self.dtype = PRECISIONS[precision]
        self.module = module.eval().to(
            device=self.device,
            dtype=self.dtype,
            memory_format=torch.channels_last,  # type: ignore[call-overload]
        )
        shape = (1, preprocess.channels, 1, 1)
        self.shape = (preprocess.channels, preprocess.input_size, preprocess.input_size)
        self.mean = torch.tensor(preprocess.mean, device=self.device).view(shape) * 255
        self.std = torch.tensor(preprocess.std, device=self.device).view(shape) * 255

    def __call__(self, batch: NDArray[np.uint8]) -> NDArray[np.float32]:
        if batch.dtype != np.uint8 or batch.shape[1:] != self.shape:
            raise ValueError(
                f"expected prepared images, uint8 [N, {', '.join(map(str, self.shape))}], "
                f"not {batch.dtype} {list(batch.shape)}"
            )
        # Pillow's arrays are read-only, which torch warns of.
        images = torch.from_numpy(np.require(batch, requirements=["C", "W"]))
        if self.device.type == "cpu":
            with one_thread_each() as threads, ThreadPoolExecutor(threads) as pool:
                parts = list(pool.map(self._forward, torch.split(images, 1)))
        else:
            # TF32 and cuDNN's choice by timing would change bits from run to run.
            with torch.backends.cudnn.flags(
                enabled=True, benchmark=False, deterministic=True, allow_tf32=False
            ):
                parts = [self._padded(part) for part in torch.split(images, GPU_BATCH)]
        return torch.cat(parts).numpy()

    def _padded(self, images: torch.Tensor) -> torch.Tensor:
        count = len(images)
        if count < GPU_BATCH:
            filling = images.new_zeros(GPU_BATCH - count, *images.shape[1:])
            images = torch.cat([images, filling])
        return self._forward(images)[:count]

    def _forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.inference_mode():
            x = (images.to(self.device).float() - self.mean) / self.std
            x = x.to(dtype=self.dtype, memory_format=torch.channels_last)
            features: torch.Tensor = self.module(x)
            return features.float().cpu()
