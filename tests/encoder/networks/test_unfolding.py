"""A network whose normalisations were folded into its convolutions can be trained."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch
from torch import nn

from retrieval_db.encoder.networks import unfolding
from retrieval_db.encoder.networks.backbones import load


def convolution(before: int, after: int, groups: int = 1) -> nn.Conv2d:
    return nn.Conv2d(before, after, 3, padding=1, groups=groups, bias=False)


def learnt() -> nn.Sequential:
    """A network with factors, moments and channels of very different size."""
    torch.manual_seed(3)
    module = nn.Sequential(
        convolution(3, 8), nn.BatchNorm2d(8), nn.ReLU6(),
        convolution(8, 8, groups=8), nn.BatchNorm2d(8), nn.ReLU6(),
        nn.Conv2d(8, 6, 1), nn.BatchNorm2d(6), nn.MaxPool2d(2), nn.BatchNorm2d(6),
    )  # fmt: skip
    for norm in norms(module):
        nn.init.uniform_(norm.weight, 0.1, 9)
        nn.init.normal_(norm.bias)
        nn.init.normal_(cast(torch.Tensor, norm.running_mean))
        nn.init.uniform_(cast(torch.Tensor, norm.running_var), 0.01, 50)
    return module.eval().requires_grad_(False)


def norms(module: nn.Module) -> list[nn.BatchNorm2d]:
    return [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]


def fold(module: nn.Sequential) -> nn.Sequential:
    """What a converter for inference does, keeping the normalisations as shells."""
    for layer, norm in zip(module, list(module)[1:], strict=False):
        if not isinstance(layer, nn.Conv2d) or not isinstance(norm, nn.BatchNorm2d):
            continue
        mean, variance = norm.running_mean, norm.running_var
        assert mean is not None
        assert variance is not None
        factor = norm.weight / (variance + norm.eps).sqrt()
        layer.weight.mul_(factor[:, None, None, None])
        norm.bias.sub_(factor * mean)
        if layer.bias is not None:
            norm.bias.add_(factor * layer.bias)
            layer.bias.zero_()
        norm.weight.fill_(1)
        mean.zero_()
        variance.fill_(1 - norm.eps)
    return module


IMAGES = torch.randn(64, 3, 12, 12, generator=torch.Generator().manual_seed(1))


def folded_network() -> nn.Sequential:
    module = learnt()
    norms(module)[-1].reset_running_stats()  # it stands behind no convolution
    before = module(IMAGES)
    torch.testing.assert_close(fold(module)(IMAGES), before, rtol=1e-3, atol=1e-3)
    return module


def test_the_function_stays_and_holds_in_training() -> None:
    module = folded_network()
    before = module(IMAGES)
    lost = deepcopy(module).train()(IMAGES)
    assert not torch.allclose(lost, before, rtol=0.1, atol=0.1)
    assert unfolding.folded(module)
    unfolding.unfold(module, IMAGES)
    assert not unfolding.folded(module)
    torch.testing.assert_close(module(IMAGES), before, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(module.train()(IMAGES), before, rtol=1e-3, atol=1e-3)


def test_channels_of_convolutions_have_norm_1() -> None:
    module = folded_network()
    unfolding.unfold(module, IMAGES)
    first, depthwise, biased = (each for each in module if isinstance(each, nn.Conv2d))
    for layer in (first, depthwise):
        channels = layer.weight.flatten(1).norm(dim=1)
        torch.testing.assert_close(channels, torch.ones_like(channels))
    # One with a bias would need that scaled, too, and is left as it is.
    assert not np.allclose(biased.weight.flatten(1).norm(dim=1), 1)


def test_others_are_left_alone() -> None:
    assert not unfolding.folded(learnt())
    assert not unfolding.folded(nn.Sequential(nn.Conv2d(3, 3, 1)))


@pytest.mark.parametrize("size", [33, 64])
def test_mobilenet_stays_what_it_was(mobilenet: Path, size: int) -> None:
    module = load("mobilenet_v2", mobilenet)[0].module
    images = torch.randn(16, 3, size, size, generator=torch.Generator().manual_seed(2))
    before = module(images)
    assert unfolding.folded(module)
    unfolding.unfold(module, images)
    assert not unfolding.folded(module)
    torch.testing.assert_close(module(images), before, rtol=1e-3, atol=1e-4)
