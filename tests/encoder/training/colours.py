"""Photos of noise in three colours, and networks that learn to tell them apart."""

from __future__ import annotations

from typing import Any

import numpy as np

from retrieval_db.encoder import training
from retrieval_db.encoder.datasets import Dataset
from retrieval_db.encoder.datasets.images import Pixels
from retrieval_db.encoder.hashing.recipes import FROM_NOTHING, Recipe
from retrieval_db.encoder.network import NetworkEncoder

COLOURS = {"blue": (40, 60, 200), "green": (60, 180, 60), "red": (200, 40, 40)}
FEW = FROM_NOTHING.changed(bits=(8, 12), epochs=2, batch_size=12)


def coloured(count: int, seed: int = 0) -> Dataset:
    """Photos of noise with a colour, which is their class."""
    random = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    base = np.array([COLOURS[name] for name in COLOURS])[labels]
    noise = random.integers(-60, 60, (count, 32, 32, 3))
    pixels = (base[:, None, None] + noise).clip(0, 255).astype(np.uint8)
    return Dataset("colours", Pixels("colours", pixels), labels.astype(np.int64), tuple(COLOURS))


def every(data: Dataset) -> Any:
    return np.arange(len(data))


def train_network(data: Dataset, recipe: Recipe = FEW, **options: Any) -> training.Trained:
    base = training.unfitted("cifar", device="cpu")
    rows = options.pop("rows", every(data))
    return training.train(data, rows, base, recipe, name="small", frozen=False, **options)


def prepared(made: NetworkEncoder, data: Dataset) -> Any:
    return np.stack([made.prepare(data.images[row]) for row in range(len(data))])
