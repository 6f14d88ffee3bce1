"""What a training draws its batches from: pixels and features, where and how they lie."""

from __future__ import annotations

import itertools
import tracemalloc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from retrieval_db.encoder.hashing import heads
from retrieval_db.encoder.hashing.heads import LinearHead
from retrieval_db.encoder.networks.preprocess import Preprocess
from retrieval_db.encoder.training import sources
from retrieval_db.encoder.training.sources import PixelSource, Standard


def test_where_images_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU only while they leave it half of its free memory."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    gpu, processor = torch.device("cuda"), torch.device("cpu")
    assert sources._place(49, gpu) == gpu
    assert sources._place(50, gpu) == processor
    assert sources._place(1 << 40, processor) == processor


def test_in_blocks_as_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """To the last bit, but for the product, whose sums may be of another order."""
    random = np.random.default_rng(0)
    features = random.standard_normal((300, 33)).astype(np.float32)
    images = random.integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    head = LinearHead(features[:33, :16].copy(), features[0, :16].copy(), normalize=True)

    def found() -> tuple[Any, ...]:
        standard = Standard.of(features)
        return standard.mean, standard.scale, standard(features), sources._laid_out(images, 2)

    whole, outputs = found(), head(features)
    monkeypatch.setattr(heads, "BLOCK", 7)
    monkeypatch.setattr(sources, "ROWS", 7)
    for one, other in zip(whole, found(), strict=True):
        assert np.array_equal(one, other)
    np.testing.assert_allclose(head(features), outputs, rtol=1e-6, atol=1e-7)
    x = features.astype(np.float64)
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    assert whole[1] == np.sqrt(((x - x.mean(axis=0)) ** 2).mean())


def test_features_are_not_held_many_times(monkeypatch: pytest.MonkeyPatch) -> None:
    """In float64 they take twice the memory already."""
    features = np.random.default_rng(0).standard_normal((4000, 64)).astype(np.float32)
    images = np.zeros((400, 3, 32, 32), np.uint8)
    head = LinearHead(features[:64, :16].copy(), features[0, :16].copy(), normalize=True)
    standard = Standard.of(features)
    monkeypatch.setattr(heads, "BLOCK", 50)
    monkeypatch.setattr(sources, "ROWS", 5)
    works: tuple[tuple[Callable[[], Any], float], ...] = (
        (lambda: Standard.of(features), 2.2 * features.nbytes),
        (lambda: standard(features), 1.2 * features.nbytes),
        (lambda: head(features), 0.5 * features.nbytes),
        (lambda: sources._laid_out(images, 2), 1.5 * images.nbytes),
    )
    for work, most in works:
        tracemalloc.start()
        work()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most


def test_cuts_and_mirror_images() -> None:
    images = np.arange(2 * 3 * 4 * 4, dtype=np.uint8).reshape(2, 3, 4, 4)
    preprocess = Preprocess(4, (0.0,) * 3, (1 / 255,) * 3, crop=1.0)
    source = PixelSource(images, preprocess, torch.device("cpu"), shift=1, mirror=True)
    rows, generator = torch.tensor([0, 1]), torch.Generator().manual_seed(0)
    np.testing.assert_allclose(source.plain(rows).numpy(), images, rtol=1e-6)
    padded = np.pad(images, ((0, 0), (0, 0), (1, 1), (1, 1)), mode="reflect")
    mirrored = []
    for epoch in range(40):
        for shown, own in zip(source.batch(rows, epoch, generator).numpy(), padded, strict=True):
            cuts = [own[:, y : y + 4, x : x + 4] for y in range(3) for x in range(3)]
            plain = any(np.allclose(shown, cut) for cut in cuts)
            turned = any(np.allclose(shown, cut[:, :, ::-1]) for cut in cuts)
            assert plain or turned
            mirrored.append(turned and not plain)
    for image in (mirrored[::2], mirrored[1::2]):  # every other epoch, but for palindromes
        assert not any(a and b for a, b in itertools.pairwise(image))
        assert sum(image) > 10


def test_standardised_features_fold_back() -> None:
    features = np.random.default_rng(0).gamma(1.0, size=(40, 6)).astype(np.float32)
    standard = Standard.of(features)
    ready = standard(features)
    assert ready.std() == pytest.approx(1, abs=1e-3)
    layer = torch.nn.Linear(6, 4)
    from retrieval_db.encoder.training.objectives import linear

    head = linear(layer)
    np.testing.assert_allclose(standard.folded(head)(features), head(ready), atol=1e-5)
