"""A network for small images, grey or in colour, to be trained from nothing."""

from __future__ import annotations

from torch import nn

NAME = "small_cnn"
FEATURE_DIM = 128


def network(channels: int, feature_dim: int = FEATURE_DIM) -> nn.Module:
    """Three convolutions and one dense layer: [N, C, S, S], S ≥ 4, → features [N, D]."""
    return nn.Sequential(
        nn.Conv2d(channels, 32, 3, padding=1),
        nn.ReLU(),
        nn.Conv2d(32, 64, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(64, 64, 3, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(4),
        nn.Flatten(),
        nn.Linear(64 * 4 * 4, feature_dim),
        nn.ReLU(),
    )
