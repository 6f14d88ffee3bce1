"""A network as it is run: the same function with fewer passes over memory and less of Python."""

from __future__ import annotations

import copy
import warnings

import torch
from torch import fx, nn
from torch.fx.experimental.optimization import fuse


def folded(module: nn.Module) -> nn.Module:
    """A copy of a network with each batch normalisation folded into the convolution before it.

    The same function with fewer passes over memory, which a CPU gains much from. A network that
    cannot be traced is copied as it is.
    """
    module = module.eval()
    try:
        return fuse(module)
    # Control flow that depends on the data raises nearly anything in tracing.
    except Exception:
        return copy.deepcopy(module)


def recorded(module: nn.Module, images: torch.Tensor) -> nn.Module:
    """A folded network as a TorchScript graph, if that computes the same; else as it is.

    A graph runs without Python's lock. Called layer by layer, threads that compute images side by
    side, and those that decode the next ones, wait for it again and again (`benchmarks.recording`).
    `torch.export` and `torch.compile`, which torch recommends instead, still go layer by layer, or
    need a C++ compiler.

    The bits are those of the layers, but in a network of pointwise convolutions, whose weights are
    packed once instead of in each call: there features may differ in the last place.

    Args:
        images: to record it with, [1, C, S, S] of the module's dtype, in the memory format that
            it will be called with.
    """
    # Only what `fuse` could trace is known to do the same with all images.
    if not isinstance(module, fx.GraphModule):
        return module
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            # Deprecated. A torch that has it no more goes layer by layer.
            warnings.simplefilter("ignore")
            graph: torch.jit.ScriptModule = torch.jit.trace(  # type: ignore[no-untyped-call]
                module, images, check_trace=False
            )
            if packs(module, images.dtype):
                graph = torch.jit.optimize_for_inference(graph)
                same = torch.allclose(graph(images), module(images), rtol=1e-4, atol=1e-4)
            else:
                same = torch.equal(graph(images), module(images))
    except Exception:
        return module
    return graph if same else module


def packs(module: nn.Module, dtype: torch.dtype) -> bool:
    """Whether packing the weights pays (`benchmarks.recording`): most convolutions are pointwise,
    and computed in float32."""
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Conv2d)]
    pointwise = sum(layer.kernel_size == (1, 1) and layer.groups == 1 for layer in layers)
    return dtype == torch.float32 and 2 * pointwise > len(layers)
