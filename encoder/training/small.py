"""A small encoder for small images, trained here: a latent layer whose signs are the bits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.errors import NotEnoughImages, UsageError

from ..devices.inference import one_thread_each
from ..hashing.fitted import Head
from ..hashing.methods import parse_spec
from ..hashing.recipes import Recipe
from ..network import NetworkEncoder
from ..networks.backbones import Backbone
from ..networks.preprocess import Preprocess
from ..networks.small_cnn import FEATURE_DIM, NAME, network
from . import loop
from .sources import PixelSource

MAX_SIZE = 64
RECIPE = Recipe("latent_ce", epochs=10, learning_rate=5e-3, batch_size=64, weight_decay=0.0)


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

    See `losses.latent_ce`. Training runs on the CPU and gives the same weights each time.

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
    method, bits = parse_spec("latent_ce", bits)
    if len(images) != len(labels):
        raise UsageError(f"There are {len(images)} images, but {len(labels)} labels.")
    names = [str(label) for label in labels]
    classes = tuple(sorted(set(names)))
    if len(classes) < 2:
        raise NotEnoughImages("Training needs labelled images of at least two classes.")
    preprocess, pixels = _prepare(images)
    targets = np.array([classes.index(label) for label in names], dtype=np.int64)
    # The weights and the order are drawn from the seed; the caller's generator is left alone.
    with torch.random.fork_rng(devices=[]), one_thread_each():
        torch.manual_seed(seed)
        body = network(preprocess.channels)
        recipe = replace(RECIPE, bits=(bits,), seed=seed, epochs=epochs)
        source = PixelSource(pixels, preprocess, torch.device("cpu"))
        found = loop.train(body, FEATURE_DIM, source, targets, len(classes), recipe, device="cpu")
    return NetworkEncoder(
        name=name or f"{method.name}{bits}",
        method=method.name,
        bits=bits,
        backbone=Backbone(NAME, FEATURE_DIM, body.requires_grad_(False)),
        preprocess=preprocess,
        head=Head(
            method.name,
            found.heads[bits],
            len(images),
            found.objectives[bits].classifier(),
            classes,
            found.softmax,
        ),
        seed=seed,
        device=device,
    )


def _prepare(images: Sequence[Image.Image]) -> tuple[Preprocess, NDArray[np.uint8]]:
    """The preprocessing that suits these images, and the prepared images, uint8 [N, C, S, S]."""
    size = min(MAX_SIZE, max(4, *(max(image.size) for image in images)))
    colour = Preprocess(size, (0.0,) * 3, (1.0,) * 3, crop=None)
    stack = np.stack([colour(image) for image in images])
    if np.array_equal(stack, np.broadcast_to(stack[:, :1], stack.shape)):
        stack = stack[:, :1]
    # Rounded, so that the JSON of the config holds short numbers.
    mean = (stack.mean(axis=(0, 2, 3)) / 255).round(4).tolist()
    std = (stack.std(axis=(0, 2, 3)) / 255).round(4).clip(min=0.01).tolist()
    return Preprocess(size, tuple(mean), tuple(std), crop=None), stack
