"""Images and weights that are made here."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty per-user folder, an empty torch cache, and no network."""
    folder = tmp_path_factory.mktemp("home")
    monkeypatch.setenv("RETRIEVAL_DB_HOME", str(folder))
    monkeypatch.setenv("TORCH_HOME", str(folder / "torch"))
    for scheme in ("http", "https"):  # port 9 refuses: downloads fail at once, everywhere
        monkeypatch.setenv(f"{scheme}_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "127.0.0.1,localhost")
    return folder


@pytest.fixture(scope="session")
def mobilenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of random weights for mobilenet_v2."""
    import torch
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = mobilenet_v2().state_dict()
    path = tmp_path_factory.mktemp("weights") / "mobilenet.safetensors"
    save_file(state, path)
    return path


def noise(seed: int, width: int = 40, height: int = 30) -> Image.Image:
    """A smooth random colour image."""
    small = np.random.default_rng(seed).integers(0, 256, (5, 6, 3), dtype=np.uint8)
    return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)


@pytest.fixture(scope="session")
def images() -> list[Image.Image]:
    """Twelve different images of different sizes."""
    return [noise(seed, 40 + 3 * seed, 90 - 4 * seed) for seed in range(12)]
