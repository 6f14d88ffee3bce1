"""Batches through a CUDA device: copies in, network and copies out run beside each other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

# Batches that are on the device, or on their way, while one is handed out.
BEGUN = 2

# torch's types leave out its events, streams and graphs.
cuda: Any = torch.cuda

Finish = Callable[[torch.Tensor], tuple[torch.Tensor, ...]]


@dataclass
class _Slot:
    """The memory of one call of the network, here (pinned) and on the device."""

    host_in: torch.Tensor
    device_in: torch.Tensor
    host_out: tuple[torch.Tensor, ...]
    loaded: Any = field(default_factory=cuda.Event)
    started: Any = field(default_factory=lambda: cuda.Event(enable_timing=True))
    done: Any = field(default_factory=lambda: cuda.Event(enable_timing=True))
    count: int = 0


class CudaStream:
    """Runs a network on batches of one shape, the last filled up with black images.

    The same kernels run as in a plain call. Where the calls can be recorded as a CUDA graph,
    which saves the time of launching each kernel, the recording is used if it gives the same
    bits as a plain call, else the plain calls are.

    Args:
        device: of type cuda.
        shape: [B, C, S, S] of one call, uint8.
        forward: images on the device → features float32 [B, D].
        finish: features → what is wanted of them.
        busy: told the device's seconds and the images of each call.
    """

    def __init__(
        self,
        device: torch.device,
        shape: tuple[int, ...],
        forward: Callable[[torch.Tensor], torch.Tensor],
        finish: Finish,
        busy: Callable[[float, int], None],
    ) -> None:
        self.device = device
        self.shape = shape
        self._forward = forward
        self._wanted = finish
        self._busy = busy
        self._copies = cuda.Stream(device)
        self._free: list[_Slot] = []
        self._graph: tuple[Any, torch.Tensor, tuple[torch.Tensor, ...]] | None = None

    def run(self, batches: Iterable[torch.Tensor]) -> Iterator[tuple[NDArray[Any], ...]]:
        """What `finish` gives for each batch, uint8 [N, C, S, S] on the CPU, in order."""
        with torch.inference_mode(), cuda.device(self.device):
            self._graph = self._recorded()
            begun: deque[list[_Slot]] = deque()
            for batch in batches:
                begun.append([self._begin(part) for part in torch.split(batch, self.shape[0])])
                if len(begun) > BEGUN:
                    yield self._finish(begun.popleft())
            while begun:
                yield self._finish(begun.popleft())

    def _begin(self, images: torch.Tensor) -> _Slot:
        """Send images to the device and through the network; nothing is waited for."""
        slot = self._free.pop() if self._free else self._slot()
        slot.count = len(images)
        slot.host_in[: slot.count].copy_(images)
        slot.host_in[slot.count :].zero_()
        current = cuda.current_stream()
        with cuda.stream(self._copies):
            slot.device_in.copy_(slot.host_in, non_blocking=True)
            slot.loaded.record()
        current.wait_event(slot.loaded)
        slot.started.record()
        for here, there in zip(slot.host_out, self._result(slot.device_in), strict=True):
            here.copy_(there, non_blocking=True)
        slot.done.record()
        return slot

    def _compute(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return self._wanted(self._forward(images))

    def _result(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._graph is None:
            return self._compute(images)
        graph, static_in, static_out = self._graph
        static_in.copy_(images)
        graph.replay()
        return static_out

    def _finish(self, slots: list[_Slot]) -> tuple[NDArray[Any], ...]:
        """Wait for the calls of a batch; their memory is free again afterwards."""
        parts = []
        for slot in slots:
            slot.done.synchronize()
            self._busy(slot.started.elapsed_time(slot.done) / 1000, slot.count)
            parts.append([tensor[: slot.count].numpy().copy() for tensor in slot.host_out])
            self._free.append(slot)
        return tuple(np.concatenate(column) for column in zip(*parts, strict=True))

    def _slot(self) -> _Slot:
        device_in = torch.zeros(self.shape, dtype=torch.uint8, device=self.device)
        host_out = tuple(
            torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
            for tensor in self._result(device_in)
        )
        host_in = torch.empty(self.shape, dtype=torch.uint8, pin_memory=True)
        # Filled on this stream, used on the other.
        cuda.current_stream().synchronize()
        return _Slot(host_in, device_in, host_out)

    def _recorded(self) -> tuple[Any, torch.Tensor, tuple[torch.Tensor, ...]] | None:
        """The network as a CUDA graph; None where it cannot be one, or gives other bits."""
        generator = torch.Generator(self.device).manual_seed(0)
        images = torch.randint(
            0, 256, self.shape, dtype=torch.uint8, device=self.device, generator=generator
        )
        static_in = torch.zeros_like(images)
        plain = self._compute(images)
        try:
            # Libraries set themselves up in the first calls, which cannot be recorded.
            side = cuda.Stream(self.device)
            side.wait_stream(cuda.current_stream())
            with cuda.stream(side):
                for _ in range(2):
                    self._compute(static_in)
            cuda.current_stream().wait_stream(side)
            graph = cuda.CUDAGraph()
            with cuda.graph(graph):
                static_out = self._compute(static_in)
            static_in.copy_(images)
            graph.replay()
            same = all(map(torch.equal, plain, static_out))
        except RuntimeError:
            return None
        return (graph, static_in, static_out) if same else None
