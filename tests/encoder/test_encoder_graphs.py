"""Networks as they are run: folded and recorded, the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from retrieval_db.encoder import Preprocess
from retrieval_db.encoder.devices.graphs import folded, recorded
from retrieval_db.encoder.devices.inference import Runner
from retrieval_db.encoder.networks import backbones

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)


class Strange(nn.Module):
    """Does otherwise with some images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def runner(module: nn.Module, precision: str = "float32", *, flip: bool = False) -> Runner:
    return Runner(module, Preprocess(input_size=64, flip=flip), "cpu", precision)


def test_folding_changes_no_feature_noticeably(mobilenet: Path) -> None:
    """Batch normalisation folded into the convolutions is the same function, and a copy."""
    module = backbones.load("mobilenet_v2", mobilenet)[0].module
    quick = folded(module)
    images = torch.from_numpy(IMAGES).float() / 255
    with torch.inference_mode():
        torch.testing.assert_close(quick(images), module(images), rtol=1e-4, atol=1e-5)
    kinds = [type(layer).__name__ for layer in quick.modules()]
    assert "BatchNorm2d" not in kinds
    assert any("BatchNorm2d" in type(layer).__name__ for layer in module.modules())

    copy = folded(Strange())
    assert isinstance(copy, Strange)
    assert copy(torch.tensor([-1.0])).item() == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet18", "convnext_tiny"])
def test_a_recorded_network_gives_the_same_bits(name: str, flip: bool, precision: str) -> None:
    torch.manual_seed(0)
    quick = runner(torchvision.models.get_model(name, weights=None), precision, flip=flip)
    assert isinstance(quick.module, torch.jit.ScriptModule)
    slow = runner(Strange(), precision, flip=flip)
    torch.manual_seed(0)
    module = folded(torchvision.models.get_model(name, weights=None))
    slow.module = module.to(dtype=slow.dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    # More than the two calls after which TorchScript may choose other kernels.
    for _ in range(4):
        assert np.array_equal(quick(IMAGES), slow(IMAGES))


def test_what_depends_on_the_image_is_not_recorded() -> None:
    module = folded(Strange())
    assert recorded(module, torch.rand(1, 3, 4, 4)) is module


def test_without_torchscript_the_same_features(
    mobilenet: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = backbones.load("mobilenet_v2", mobilenet)[0].module
    expected = runner(module)(IMAGES)
    monkeypatch.delattr(torch.jit, "trace")
    slow = runner(module)
    assert not isinstance(slow.module, torch.jit.ScriptModule)
    assert np.array_equal(slow(IMAGES), expected)


def test_other_bits_are_not_taken(mobilenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a torch ever record something else than it computes."""
    module = folded(backbones.load("mobilenet_v2", mobilenet)[0].module)
    monkeypatch.setattr(torch.jit, "trace", lambda *_, **__: lambda images: module(images) + 1e-6)
    assert recorded(module, torch.rand(1, 3, 64, 64)) is module
