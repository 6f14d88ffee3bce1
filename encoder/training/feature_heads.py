"""Heads on features that stay as they are: fitted, or trained."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from ..devices.inference import resolve_device
from ..hashing.fitted import Head
from ..hashing.heads import LinearHead
from ..hashing.recipes import Recipe
from . import loop
from .loop import Epoch, Found
from .sources import FeatureSource, Source, Standard
from .watch import Watch

Rows = NDArray[np.int64]


def fitted_head(
    features: NDArray[np.float32],
    numbers: Rows,
    classes: tuple[str, ...],
    recipe: Recipe,
    bits: int,
) -> Head:
    """A head of a method that is fitted, not trained: with labels or without.

    Args:
        features: [N, D] float32.
        numbers: of the classes, int64 [N]; without labels they play no part.
        classes: their names.
    """
    method = recipe.kind
    if method.fit is not None:
        return Head(method.name, method.fit(features, bits, recipe.seed), len(features))
    assert method.fit_labels is not None
    options = recipe.settings(bits)
    projection = method.fit_labels(features, numbers, bits, recipe.seed, options)
    return Head(
        method.name,
        projection,
        len(features),
        classes=classes,
        options=tuple(sorted(options.items())),
    )


def descended_heads(
    features: NDArray[np.float32],
    numbers: Rows,
    classes: tuple[str, ...],
    recipe: Recipe,
    *,
    device: str = "auto",
    held_out: tuple[NDArray[np.float32], Rows] | None = None,
    state: Path | None = None,
    resume: bool = False,
    watch: Watch | None = None,
) -> tuple[dict[int, Head], list[Epoch]]:
    """Heads of a deep method on features that stay as they are, by width; and the curve.

    Arguments as `fitted_head` and `training.train`.
    """
    watch = watch or Watch()
    standard = Standard.of(features)
    where = resolve_device(device)
    tested: tuple[Source, Rows] | None = None
    if held_out is not None:
        tested = (FeatureSource(standard(held_out[0]), where), held_out[1])
    ready = standard(features)
    identity = hashlib.sha256(ready.data.cast("B"))
    identity.update(numbers.tobytes())
    found = loop.train(
        nn.Identity(),
        features.shape[1],
        FeatureSource(ready, where),
        numbers,
        len(classes),
        recipe,
        device=device,
        held_out=tested,
        state=state,
        resume=resume,
        identity=identity.hexdigest(),
        report=watch.epoch,
        progress=watch.images("Training", loop.shown(len(features), recipe)),
    )
    return trained_heads(found, classes, recipe, len(features), standard), found.curve


def trained_heads(
    found: Found,
    classes: tuple[str, ...],
    recipe: Recipe,
    images: int,
    standard: Standard | None = None,
) -> dict[int, Head]:
    """What the loop found, as heads with their classifiers.

    Args:
        images: how many they were learnt from.
        standard: what was done to the features, where they stayed as they were.
    """

    def fold(head: LinearHead) -> LinearHead:
        return head if standard is None else standard.folded(head)

    return {
        bits: Head(
            recipe.method,
            fold(head),
            images,
            found.objectives[bits].classifier(),
            classes,
            fold(found.softmax),
            tuple(sorted(recipe.settings(bits).items())),
        )
        for bits, head in found.heads.items()
    }
