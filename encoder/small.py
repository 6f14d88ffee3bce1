"""A small network for small images, trained here, with a latent layer whose signs are bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from retrieval_db.errors import FormatError, NotEnoughImages, UsageError

from .backbones import Backbone
from .heads import LinearHead
from .inference import one_thread_each
from .methods import parse_spec
from .preprocess import Preprocess

if TYPE_CHECKING:
    from .network import NetworkEncoder

NAME = "small_cnn"
FEATURE_DIM = 128
MAX_SIZE = 64
BATCH = 64


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


def restore(
    config: Mapping[str, Any], preprocess: Preprocess, tensors: Mapping[str, NDArray[Any]]
) -> Backbone:
    """The network with the weights `backbone.*` of an artifact.

    Raises:
        FormatError: they do not fit.
    """
    dim = config["feature_dim"]
    module = network(preprocess.channels, dim)
    state = {
        key.removeprefix("backbone."): torch.from_numpy(np.array(value))
        for key, value in tensors.items()
        if key.startswith("backbone.")
    }
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise FormatError("The weights of this encoder do not fit its network.") from error
    return Backbone(NAME, dim, module.eval().requires_grad_(False))


def train_small(
    images: Sequence[Image.Image],
    labels: Sequence[str | int],
    bits: int = 48,
    *,
    name: str | None = None,
    seed: int = 0,
    epochs: int = 10,
    device: str = "auto",
) -> NetworkEncoder:
    """Train a small network from nothing on small labelled images: method `latent_ce`.

    The outputs u pass a sigmoid, and a softmax on the sigmoid's values names the class;
    cross-entropy is the only loss. Bit i is 1 iff sigmoid(u_i) > 0.5, that is u_i > 0.
    Training runs on the CPU and gives the same weights each time.

    Lin, Yang, Hsiao & Chen, "Deep learning of binary hash codes for fast image retrieval",
    CVPR workshops 2015.

    Args:
        images: N square-ish images; larger ones are made 64 pixels wide. Grey if all are grey.
        labels: N labels, of at least two classes.
        bits: L.
        name: of the encoder; `latent_ce` and L by default.
        seed: of the weights and the order of the images.
        epochs: passes over the images.

    Returns:
        A fitted encoder; `predict` gives labels from its outputs.

    Raises:
        UsageError: an impossible L; images and labels of different number.
        NotEnoughImages: fewer than two classes.
    """
    from .network import Head, NetworkEncoder

    method, bits = parse_spec("latent_ce", bits)
    if len(images) != len(labels):
        raise UsageError(f"There are {len(images)} images, but {len(labels)} labels.")
    names = [str(label) for label in labels]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise NotEnoughImages("Training needs labelled images of at least two classes.")
    preprocess, pixels = _prepare(images)
    targets = torch.tensor([classes.index(label) for label in names])
    # The weights and the order are drawn from the seed; the caller's generator is left alone.
    with torch.random.fork_rng(devices=[]), one_thread_each():
        torch.manual_seed(seed)
        backbone = network(preprocess.channels)
        latent, classifier = nn.Linear(FEATURE_DIM, bits), nn.Linear(bits, len(classes))
        model = nn.Sequential(backbone, latent, nn.Sigmoid(), classifier)
        _train(model, pixels, targets, epochs)
    return NetworkEncoder(
        name=name or f"{method.name}{bits}",
        method=method.name,
        bits=bits,
        backbone=Backbone(NAME, FEATURE_DIM, backbone.eval().requires_grad_(False)),
        preprocess=preprocess,
        head=Head(method.name, _linear(latent), len(images), _linear(classifier), classes),
        seed=seed,
        device=device,
    )


def _train(model: nn.Module, pixels: torch.Tensor, targets: torch.Tensor, epochs: int) -> None:
    """Adam with a learning rate that rises and falls once (one cycle)."""
    steps = -(-len(pixels) // BATCH) * epochs
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(pixels)), BATCH):
            loss = nn.functional.cross_entropy(model(pixels[batch]), targets[batch])
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
            schedule.step()


def _prepare(images: Sequence[Image.Image]) -> tuple[Preprocess, torch.Tensor]:
    """The preprocessing that suits these images, and the images as the network takes them."""
    size = min(MAX_SIZE, max(4, *(max(image.size) for image in images)))
    colour = Preprocess(size, (0.0,) * 3, (1.0,) * 3, crop=None)
    stack = np.stack([colour(image) for image in images])
    if np.array_equal(stack, np.broadcast_to(stack[:, :1], stack.shape)):
        stack = stack[:, :1]
    # Rounded, so that the JSON of the config holds short numbers.
    mean = (stack.mean(axis=(0, 2, 3)) / 255).round(4).tolist()
    std = (stack.std(axis=(0, 2, 3)) / 255).round(4).clip(min=0.01).tolist()
    preprocess = Preprocess(size, tuple(mean), tuple(std), crop=None)
    shape = (1, -1, 1, 1)
    pixels = torch.from_numpy(stack).float() / 255
    pixels = (pixels - torch.tensor(mean).view(shape)) / torch.tensor(std).view(shape)
    return preprocess, pixels


def _linear(layer: nn.Linear) -> LinearHead:
    weight = layer.weight.detach().numpy().T.copy()
    return LinearHead(weight, layer.bias.detach().numpy().copy(), normalize=False)
