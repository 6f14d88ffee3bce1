"""Networks recorded as graphs against the same ones called layer by layer from Python.

    python -m benchmarks.recording

Random weights, random images; milliseconds an image with as many threads as processors, each of
which computes an image of its own, and how far the features are apart: |difference| / |feature|,
the largest of all images. Runs are interleaved, and the median of each is reported.
"""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np
import torch
import torchvision
from torch import nn

from benchmarks import study
from retrieval_db.encoder import Preprocess
from retrieval_db.encoder.devices.graphs import packs
from retrieval_db.encoder.devices.inference import Runner
from retrieval_db.encoder.networks import cifar

NETWORKS = {
    "mobilenet_v2": 224,
    "resnet18": 224,
    "resnet50": 224,
    "alexnet": 224,
    "vgg11": 224,
    "convnext_tiny": 224,
    "cifar_medium": 32,
}
IMAGES = 32
RUNS = 5


def build(name: str) -> nn.Module:
    if name in cifar.NETWORKS:
        return cifar.network(name)[0]
    module: nn.Module = torchvision.models.get_model(name, weights=None)
    return module


def compared(name: str, size: int, precision: str) -> dict[str, Any]:
    """Both ways in turn, and whether their features are the same."""
    torch.manual_seed(0)
    module = build(name)
    graph = Runner(module, Preprocess(input_size=size), "cpu", precision)
    layers = Runner(module, Preprocess(input_size=size), "cpu", precision, record=False)
    images = np.random.default_rng(0).integers(0, 256, (IMAGES, *graph.shape), dtype=np.uint8)
    ways = {"layers": layers, "graph": graph}
    expected, found = layers(images), graph(images)
    apart = np.linalg.norm(found - expected, axis=1) / np.linalg.norm(expected, axis=1)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(RUNS):
        for way, runner in ways.items():
            started = time.perf_counter()
            runner(images)
            seconds[way].append(time.perf_counter() - started)
    took = {way: median(each) / IMAGES * 1000 for way, each in seconds.items()}
    line = {
        "network": name,
        "input_size": size,
        "precision": precision,
        "recorded": isinstance(graph.module, torch.jit.ScriptModule),
        "layers_ms": round(took["layers"], 2),
        "graph_ms": round(took["graph"], 2),
        "ratio": round(took["graph"] / took["layers"], 3),
        "packed": packs(layers.module, graph.dtype),
        "same_features": np.array_equal(expected, found),
        "largest_relative_difference": float(f"{apart.max():.1e}"),
    }
    print(line, flush=True)
    return line


def main() -> None:
    lines = [
        compared(name, size, precision)
        for name, size in NETWORKS.items()
        for precision in ("float32", "bfloat16")
    ]
    study.write("recording", study.command(), {"versions": study.versions("torch"), "lines": lines})


if __name__ == "__main__":
    main()
