"""Networks for small colour photos (32 pixels), to be trained from nothing.

After Jordan, "94% on CIFAR-10 in 3.29 seconds on a single GPU", arXiv:2404.00498, 2024: a
whitening layer that is computed from the training images and then kept; blocks of
convolutions that begin as near to the identity as they can; and pooling before the
nonlinearity.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import nn

SIZE = 32
PATCH = 2

# Widths of the blocks, and convolutions in each. 0.65, 1.15 and 7.7 million weights.
NETWORKS: Mapping[str, tuple[Sequence[int], int]] = {
    "cifar": ((48, 96, 192), 2),
    "cifar_medium": ((64, 160, 224), 2),
    "cifar_large": ((128, 256, 512), 3),
}


class Block(nn.Module):
    """Convolutions with pooling after the first: [N, C, S, S] → [N, D, S // 2, S // 2]."""

    def __init__(self, channels: int, width: int, depth: int) -> None:
        super().__init__()
        convolutions = [
            nn.Conv2d(channels if index == 0 else width, width, 3, padding=1, bias=False)
            for index in range(depth)
        ]
        for convolution in convolutions:
            nn.init.dirac_(convolution.weight.data[: convolution.in_channels])
        self.convolutions = nn.ModuleList(convolutions)
        self.norms = nn.ModuleList(nn.BatchNorm2d(width) for _ in convolutions)
        self.pool = nn.MaxPool2d(2)
        self.act = nn.GELU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norms[0](self.pool(self.convolutions[0](x))))
        start = x
        last = len(self.convolutions) - 1
        for index in range(1, last + 1):
            x = self.norms[index](self.convolutions[index](x))
            # A deep block's input goes round its convolutions but the first.
            x = self.act(x + start if index == last > 1 else x)
        return x


def network(name: str) -> tuple[nn.Module, int]:
    """[N, 3, S, S], S ≥ 17, normalised → features [N, D]; and D, the last width."""
    widths, depth = NETWORKS[name]
    whitening = nn.Conv2d(3, 2 * 3 * PATCH**2, PATCH)
    blocks, channels = [], whitening.out_channels
    for width in widths:
        blocks.append(Block(channels, width, depth))
        channels = width
    layers = [whitening, nn.GELU(), *blocks, nn.AdaptiveMaxPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers), channels


def whiten(module: nn.Module, images: torch.Tensor) -> None:
    """Set the first layer to the principal axes of the images' patches, and their negatives,
    each scaled to variance 1; it is not trained.

    Args:
        module: of `network`.
        images: [N, 3, S, S], as the network takes them; a few thousand do.
    """
    assert isinstance(module, nn.Sequential)
    layer = module[0]
    assert isinstance(layer, nn.Conv2d)
    patches = images.float().unfold(2, PATCH, 1).unfold(3, PATCH, 1)
    rows = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * PATCH**2).double()
    rows = rows - rows.mean(0)
    values, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    # An axis's sign is arbitrary, and both signs are used; fixed all the same.
    axes = (vectors / (values + 5e-4).sqrt()).T.flip(0)
    axes = axes * torch.where(axes.sum(1, keepdim=True) < 0, -1.0, 1.0)
    weight = torch.cat([axes, -axes]).reshape(layer.weight.shape)
    with torch.no_grad():
        layer.weight.copy_(weight.to(layer.weight))
        if layer.bias is not None:
            layer.bias.zero_()
    keep_whitening(module)


def keep_whitening(module: nn.Module) -> None:
    """Leave the first layer's axes as they are in a training; its bias may move."""
    assert isinstance(module, nn.Sequential)
    cast(nn.Conv2d, module[0]).weight.requires_grad_(False)
