"""Normalisations that were folded into the convolutions, taken out again for a training.

Programs for inference multiply the weights of a convolution by the factor of the batch
normalisation behind it. Files converted from them give the right features, but cannot be
trained: batches are normalised by their own moments in a training, so the factors would be lost;
and the scale of the weights, to which the steps of an optimiser are added, differs by thousands
from channel to channel.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


def folded(module: nn.Module) -> bool:
    """Whether all batch normalisations have the moments 0 and 1, as none that learnt has."""
    norms = [each for each in module.modules() if isinstance(each, nn.BatchNorm2d)]
    return bool(norms) and all(
        torch.allclose(mean, torch.zeros_like(mean), atol=1e-4)
        and torch.allclose(variance, torch.ones_like(variance), atol=1e-4)
        for mean, variance in map(_moments, norms)
    )


@torch.no_grad()
def unfold(module: nn.Module, images: torch.Tensor) -> None:
    """Give the normalisations of a network the moments of these images, and the convolutions
    before them channels of norm 1; as a function the network stays what it was.

    Args:
        module: in evaluation mode.
        images: [N, C, S, S], as the network takes them; some hundreds do.
    """
    seen: dict[nn.BatchNorm2d, tuple[torch.Tensor, torch.Tensor]] = {}
    before: dict[nn.BatchNorm2d, nn.Conv2d] = {}
    latest: list[Any] = [None, None]  # the convolution that ran last, and its output

    def after_convolution(layer: nn.Module, _: Any, output: torch.Tensor) -> None:
        latest[:] = layer, output

    def before_norm(layer: Any, given: tuple[torch.Tensor]) -> None:
        seen[layer] = given[0].mean((0, 2, 3)), given[0].var((0, 2, 3), unbiased=False)
        if given[0] is latest[1] and latest[0].bias is None:
            before[layer] = latest[0]

    hooks = [
        layer.register_forward_hook(after_convolution)
        if isinstance(layer, nn.Conv2d)
        else layer.register_forward_pre_hook(before_norm)
        for layer in module.modules()
        if isinstance(layer, nn.Conv2d | nn.BatchNorm2d)
    ]
    module(images)
    for hook in hooks:
        hook.remove()
    for norm, (mean, variance) in seen.items():
        old_mean, old_variance = _moments(norm)
        factor = norm.weight / (old_variance + norm.eps).sqrt()
        norm.bias.add_(factor * (mean - old_mean))
        if norm in before:
            weight = before[norm].weight
            scale = weight.flatten(1).norm(dim=1).clamp_min(1e-12)
            weight.div_(scale[:, None, None, None])
            mean, variance, factor = mean / scale, variance / scale**2, factor * scale
        norm.weight.copy_(factor * (variance + norm.eps).sqrt())
        old_mean.copy_(mean)
        old_variance.copy_(variance)


def _moments(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    assert norm.running_mean is not None
    assert norm.running_var is not None
    return norm.running_mean, norm.running_var
