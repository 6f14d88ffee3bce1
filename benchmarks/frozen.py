"""Every method on the same frozen features of CIFAR-10, at several widths, over several seeds.

    python -m benchmarks.frozen [--seeds 0,1,2] [--protocols cvprw15,unseen] [--methods …]

Features of ImageNet's mobilenet_v2, computed once and kept in .data/. A head is learnt on the
protocol's training images (methods that use no labels take 20,000 of them, as `index` does);
then the protocol's queries are asked once. Nothing is chosen by them: the settings are those of
`encoder.hashing.recipes`, the same for all methods. Each line is added to the result file as it is
found, and what is there already is not computed again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db import codes
from retrieval_db.console.fitting import FIT_ON
from retrieval_db.console.screen import progress_bar
from retrieval_db.encoder import datasets, training
from retrieval_db.encoder.features import extract
from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.training.feature_heads import descended_heads, fitted_head
from retrieval_db.evaluation import Ties, by_cosine, by_prediction, metrics, ties

CACHE = study.ROOT / ".data"
NAME = "frozen-cifar10"
BITS = (12, 32, 48)
PROTOCOLS = ("cvprw15", "unseen")
UNSUPERVISED = tuple(name for name, method in METHODS.items() if method.fit is not None)
SUPERVISED = tuple(name for name, method in METHODS.items() if method.supervised)

Features = NDArray[np.float32]


@dataclass(frozen=True)
class Bench:
    """CIFAR-10 and the features of all its images."""

    data: datasets.Dataset
    features: Features
    input_size: int

    def split(self, protocol: str, seed: int) -> datasets.Split:
        return datasets.protocol(self.data, protocol, seed)


def load(input_size: int, cache: Path = CACHE) -> Bench:
    """The data set with its features, computed where they are not kept yet."""
    folder = study.data_dir()
    data = datasets.open_data(f"cifar10:{folder / 'cifar10' / 'cifar10_jpeg.npz'}")
    base = training.unfitted(
        "mobilenet_v2",
        weights=folder / "backbones" / "mobilenet_v2_imagenet.safetensors",
        device="cpu",
        cache_dir=cache,
        changes={"input_size": input_size, "mean": 0.5, "std": 0.5},
    )
    with progress_bar("Features", len(data)) as advance:
        found = extract(base, data.images, np.arange(len(data)), cache_dir=cache, progress=advance)
    assert len(found.rows) == len(data), found.skipped
    return Bench(data, found.features, input_size)


def score(ranking: Ties | Iterable[Ties], split: datasets.Split) -> float:
    """mAP as the protocol defines it, of all queries or of some after the other."""
    parts = [ranking] if isinstance(ranking, Ties) else ranking
    found = [
        metrics.average_precisions(part, split.k, denominator=split.denominator) for part in parts
    ]
    return float(np.concatenate(found).mean())


def hamming(bench: Bench, split: datasets.Split, outputs: Features) -> float:
    """mAP of the codes of all images' outputs."""
    packed = codes.binarize(outputs)
    labels = bench.data.labels
    ranking = ties.by_label(
        packed[split.query],
        packed[split.database],
        outputs.shape[1],
        labels[split.query],
        labels[split.database],
    )
    return score(ranking, split)


def baselines(bench: Bench, split: datasets.Split) -> dict[str, float]:
    """Cosine of the features, as they are and less the training images' mean."""
    labels = bench.data.labels
    mean = bench.features[split.train].mean(axis=0)
    found = {}
    for name, x in (("cosine", bench.features), ("cosine, centred", bench.features - mean)):
        ranking = by_cosine(
            x[split.query], x[split.database], labels[split.query], labels[split.database]
        )
        found[name] = score(ranking, split)
    return found


def fitted(
    bench: Bench, split: datasets.Split, method: str, seed: int, widths: tuple[int, ...] = BITS
) -> tuple[dict[int, float], dict[str, float]]:
    """mAP for each width, and, for a trained method, what its softmax says."""
    recipe = replace(FROZEN, method=method, bits=widths, seed=seed)
    rows = split.train
    if recipe.kind.fit is not None and len(rows) > FIT_ON:
        rows = np.sort(np.random.default_rng(seed).permutation(rows)[:FIT_ON])
    x = bench.features[rows]
    present, numbers = np.unique(bench.data.labels[rows], return_inverse=True)
    classes = tuple(bench.data.classes[index] for index in present)
    numbers = numbers.astype(np.int64)
    if recipe.kind.trained:
        heads, _ = descended_heads(x, numbers, classes, recipe, device="cpu")
    else:
        heads = {bits: fitted_head(x, numbers, classes, recipe, bits) for bits in widths}
    asked = np.concatenate([split.database, split.query])
    found = {}
    for bits, head in heads.items():
        outputs = np.zeros((len(bench.data), bits), np.float32)
        outputs[asked] = head.projection(bench.features[asked])
        found[bits] = hamming(bench, split, outputs)
    softmax = heads[widths[0]].softmax
    if softmax is None or split.protocol == "unseen":
        return found, {}
    labels = bench.data.labels
    predicted = present[softmax(bench.features[split.query]).argmax(axis=1)]
    ranking = by_prediction(predicted, labels[split.query], labels[split.database])
    return found, {
        "softmax accuracy": float((predicted == labels[split.query]).mean()),
        "softmax mAP": score(ranking, split),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--protocols", default=",".join(PROTOCOLS))
    parser.add_argument("--methods", default=",".join((*UNSUPERVISED, *SUPERVISED)))
    parser.add_argument("--input-size", type=int, default=129)
    given = parser.parse_args()
    bench = load(given.input_size)
    ledger = study.Ledger(
        NAME,
        ("protocol", "method", "seed"),
        {
            "data": bench.data.name,
            "features": f"mobilenet_v2 (ImageNet), {bench.input_size} pixels, frozen",
            "recipe": json.loads(FROZEN.to_json()),
        },
    )

    seeds = [int(seed) for seed in given.seeds.split(",")]
    for seed in seeds:
        for protocol in given.protocols.split(","):
            split = bench.split(protocol, seed)
            # Nothing is drawn in cvprw15: one seed's baselines are those of all.
            key = seeds[0] if protocol == "cvprw15" else seed
            if seed == key and not ledger.has(protocol, "baselines", seed):
                ledger.add(
                    protocol=protocol,
                    method="baselines",
                    seed=seed,
                    note=split.note,
                    map=baselines(bench, split),
                )
            for method in given.methods.split(","):
                if ledger.has(protocol, method, seed):
                    continue
                started = time.perf_counter()
                found, softmax = fitted(bench, split, method, seed)
                seconds = round(time.perf_counter() - started, 1)
                rounded = {str(bits): round(value, 5) for bits, value in found.items()}
                ledger.add(
                    protocol=protocol,
                    method=method,
                    seed=seed,
                    map=rounded,
                    **softmax,
                    seconds=seconds,
                )


if __name__ == "__main__":
    main()
