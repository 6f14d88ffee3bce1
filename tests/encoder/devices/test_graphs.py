"""Networks as they are run: folded and recorded, the same function."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from retrieval_db.encoder import Preprocess
from retrieval_db.encoder.devices.graphs import folded, packs, recorded
from retrieval_db.encoder.devices.inference import Runner
from retrieval_db.encoder.networks import backbones

IMAGES = np.random.default_rng(0).integers(0, 256, (6, 3, 64, 64), dtype=np.uint8)


class Strange(nn.Module):
    """Does otherwise with some images."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x if x.sum() > 0 else -x


def runner(module: nn.Module) -> Runner:
    return Runner(module, Preprocess(input_size=64), "cpu", "float32")


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


def both(name: str, precision: str = "float32", *, flip: bool = False) -> tuple[Runner, Runner]:
    """A network as it is run, and one called layer by layer."""
    torch.manual_seed(0)
    module = torchvision.models.get_model(name, weights=None)
    quick, slow = (
        Runner(module, Preprocess(input_size=64, flip=flip), "cpu", precision, record=record)
        for record in (True, False)
    )
    assert not isinstance(slow.module, torch.jit.ScriptModule)
    assert isinstance(quick.module, torch.jit.ScriptModule)
    return quick, slow


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize(
    ("name", "precision"),
    [
        ("mobilenet_v2", "bfloat16"),
        ("resnet18", "float32"),
        ("resnet18", "bfloat16"),
        ("convnext_tiny", "float32"),
    ],
)
def test_a_recorded_network_gives_the_same_bits(name: str, flip: bool, precision: str) -> None:
    quick, slow = both(name, precision, flip=flip)
    # More than the two calls after which TorchScript may choose other kernels.
    for _ in range(4):
        assert np.array_equal(quick(IMAGES), slow(IMAGES))


@pytest.mark.parametrize("name", ["mobilenet_v2", "resnet50"])
def test_packed_weights_change_the_last_place_at_most(name: str) -> None:
    quick, slow = both(name)
    assert packs(slow.module, torch.float32)
    expected = slow(IMAGES)
    found = [quick(IMAGES) for _ in range(4)]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4, atol=1e-4 * np.abs(expected).max())
    for again in (*found[1:], np.concatenate([quick(IMAGES[i : i + 1]) for i in range(6)])):
        assert np.array_equal(again, found[0])


@pytest.mark.parametrize("name", ["alexnet", "vgg11", "resnet34", "convnext_tiny"])
def test_weights_are_packed_only_where_it_pays(name: str) -> None:
    assert not packs(torchvision.models.get_model(name, weights=None), torch.float32)


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
    np.testing.assert_allclose(slow(IMAGES), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2"])
def test_other_features_are_not_taken(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Should a torch ever record something else than it computes."""
    module = folded(torchvision.models.get_model(name, weights=None))
    monkeypatch.setattr(torch.jit, "trace", lambda *_, **__: lambda images: module(images) + 1)
    monkeypatch.setattr(torch.jit, "optimize_for_inference", lambda graph: graph)
    assert recorded(module, torch.rand(1, 3, 64, 64)) is module
