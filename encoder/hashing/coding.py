"""Codes where the features are: head, sign and packing as one function of tensors."""

from __future__ import annotations

from collections.abc import Callable

import torch

from .heads import LinearHead


def coder(head: LinearHead, device: torch.device) -> Callable[[torch.Tensor], torch.Tensor]:
    """The function features float32 [N, D] → packed codes uint8 [N, ceil(L/8)] on a device.

    In float64, as the head itself (see `LinearHead.__call__`), so the bits are the same.
    """
    weight = torch.from_numpy(head.weight).to(device, torch.float64)
    bias = torch.from_numpy(head.bias).to(device, torch.float64)
    # A code whose length is no multiple of 8 ends in zeros.
    filling = -len(bias) % 8
    values = torch.tensor([128, 64, 32, 16, 8, 4, 2, 1], device=device)

    def codes(features: torch.Tensor) -> torch.Tensor:
        x = features.double()
        if head.normalize:
            norms = torch.linalg.vector_norm(x, dim=1, keepdim=True)
            x = x / torch.where(norms > 0, norms, torch.ones_like(norms))
        bits = (x @ weight + bias).float() > 0
        octets = torch.nn.functional.pad(bits, (0, filling)).reshape(len(bits), -1, 8)
        return (octets * values).sum(dim=2).to(torch.uint8)

    return codes
