"""Codes in memory searched by matrix products: for batches of queries on CUDA."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .inference import resolve_device

# Queries of a part. Its blocks of rows are as large as they may be, since each costs some twenty
# calls of the device, however small it is.
QUERIES = 256

# Numbers of a block: its rows as ±1, a quarter of a gigabyte in half precision and thrice that on
# the way there; and their distances to the queries.
SIGNS = 1 << 27
DISTANCES = 1 << 24

# A block's key is distance << 22 | row in the block, and fits into int32.
LOCAL_BITS = 22
ROW_BITS = 48


def has_cuda() -> bool:
    """Whether torch has a CUDA device here."""
    return torch.cuda.is_available()


class TorchIndex:
    """Brute force on a device; a `retrieval_db.search.flat.FlatIndex`.

        from retrieval_db.encoder.devices.flat import TorchIndex

        db.memory_source("itq128", index=TorchIndex)

    With bits as ±1 the distance of two codes of L bits is (L − q·x) / 2, so a block of rows costs
    one matrix product for many queries. The products are whole numbers of at most 256: half
    precision holds them exactly. The codes stay packed on the device, and a block at a time is
    unpacked.
    """

    def __init__(self, words: NDArray[np.uint64], bits: int, device: str = "cuda") -> None:
        """Copy codes, uint64 [W, N], to a device.

        Raises:
            UsageError: the device is not there.
        """
        self._device = resolve_device(device)
        rows = np.ascontiguousarray(words.T).view(np.uint8)
        self._bytes = torch.from_numpy(rows).to(self._device)
        self._type = torch.float32 if self._device.type == "cpu" else torch.float16
        self._shifts = torch.arange(8, dtype=torch.uint8, device=self._device)

    @property
    def name(self) -> str:
        return f"torch on {self._device.type}"

    def nearest(
        self,
        queries: NDArray[np.uint64],
        keep: int | None,
        radius: int,
        rows: NDArray[np.int64] | None = None,
    ) -> Sequence[NDArray[np.int64]]:
        """See `FlatIndex.nearest`."""
        found: list[NDArray[np.int64]] = []
        chosen = None if rows is None else torch.from_numpy(rows).to(self._device)
        for start in range(0, len(queries), QUERIES):
            part = np.ascontiguousarray(queries[start : start + QUERIES]).view(np.uint8)
            asked = self._signs(torch.from_numpy(part).to(self._device))
            if keep is None:
                found += self._within(asked, radius, chosen)
            else:
                found += self._best(asked, keep, radius, chosen)
        return found

    def _signs(self, packed: torch.Tensor) -> torch.Tensor:
        """Bytes [N, B] as [N, 8 B] of ±1. The order of bits in a byte does not matter."""
        bits = (packed[:, :, None] >> self._shifts) & 1
        return bits.reshape(len(packed), -1).to(self._type) * 2 - 1

    def _blocks(self, asked: torch.Tensor, chosen: torch.Tensor | None) -> Any:
        """For each block its distances int32 [Q, N], and the rows int64 [N]."""
        number = len(self._bytes) if chosen is None else len(chosen)
        queries, bits = asked.shape
        size = max(1, min(SIGNS // bits, DISTANCES // queries, 1 << LOCAL_BITS))
        for start in range(0, number, size):
            stop = min(start + size, number)
            if chosen is None:
                rows = torch.arange(start, stop, device=self._device)
                block = self._bytes[start:stop]
            else:
                rows = chosen[start:stop]
                block = self._bytes[rows]
            products = asked @ self._signs(block).T
            yield ((bits - products.to(torch.int32)) >> 1), rows

    def _best(
        self, asked: torch.Tensor, keep: int, radius: int, chosen: torch.Tensor | None
    ) -> list[NDArray[np.int64]]:
        best = torch.empty((len(asked), 0), dtype=torch.int64, device=self._device)
        for distances, rows in self._blocks(asked, chosen):
            local = torch.arange(len(rows), dtype=torch.int32, device=self._device)
            keys = distances << LOCAL_BITS | local
            keys = keys.topk(min(keep, len(rows)), largest=False, sorted=False).values.long()
            places = keys & ((1 << LOCAL_BITS) - 1)
            best = torch.cat((best, (keys >> LOCAL_BITS) << ROW_BITS | rows[places]), dim=1)
            best = best.topk(min(keep, best.shape[1]), largest=False, sorted=False).values
        ordered = best.sort(dim=1).values.cpu().numpy()
        return [keys[: np.searchsorted(keys, (radius + 1) << ROW_BITS)] for keys in ordered]

    def _within(
        self, asked: torch.Tensor, radius: int, chosen: torch.Tensor | None
    ) -> list[NDArray[np.int64]]:
        parts: list[list[NDArray[np.int64]]] = [[] for _ in range(len(asked))]
        for distances, rows in self._blocks(asked, chosen):
            query, place = torch.nonzero(distances <= radius, as_tuple=True)
            keys = distances[query, place].long() << ROW_BITS | rows[place]
            # `nonzero` goes through the queries in order.
            ends = torch.bincount(query, minlength=len(asked)).cumsum(0).cpu().numpy()
            for part, near in zip(parts, np.split(keys.cpu().numpy(), ends[:-1]), strict=True):
                part.append(near)
        none = np.empty(0, dtype=np.int64)
        return [np.sort(np.concatenate([none, *part])) for part in parts]
