"""Images resized by torch, on the device where they are."""

from __future__ import annotations

import torch
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as transforms


def resized(image: torch.Tensor, size: int, crop: float | None, interpolation: str) -> torch.Tensor:
    """uint8 [C, H, W] → uint8 [C, S, S], antialiased.

    Args:
        size: S.
        crop, interpolation: as in `Preprocess`; the crop is rounded to whole pixels.
    """
    if crop is not None:
        side = max(1, round(crop * min(image.shape[-2:])))
        image = transforms.center_crop(image, [side, side])
    mode = InterpolationMode(interpolation)
    whole: torch.Tensor = transforms.resize(image, [size] * 2, interpolation=mode, antialias=True)
    return whole
