"""What bfloat16 costs: flipped bits and mAP against float32, on photos of clothes.

    python -m benchmarks.precision [--device auto] [--photos 800]

Database: photos of `train`, evenly over the classes, and the head is fitted on them; queries: the
341 of `validation`. Flipped bits: the same head on the features of both precisions. mAP: each
precision with a head of its own, over the full ranking, relevant by label, tie-aware.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db.codes import binarize, hamming_distances
from retrieval_db.encoder import create
from retrieval_db.evaluation import metrics
from retrieval_db.photos import Item, Sources
from retrieval_db.pipeline import encoding

PRECISIONS = ("float32", "bfloat16")


def spread(folder: Path, count: int) -> list[Item]:
    """So many photos, as many of each class as there are."""
    classes = [list(Sources([place])) for place in sorted(folder.iterdir()) if place.is_dir()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*classes))
    return list(itertools.islice((item for item in turns if item is not None), count))


def labels(items: list[Item]) -> NDArray[np.str_]:
    return np.array([item.path.parent.name for item in items])


def mean_average_precision(
    queries: NDArray[np.uint8], database: NDArray[np.uint8], relevant: NDArray[np.bool_]
) -> float:
    distances = hamming_distances(queries, database)
    return metrics.mean(map(metrics.average_precision, distances, relevant))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--photos", type=int, default=800)
    options = parser.parse_args()
    data = study.data_dir()
    train = spread(data / "clothing" / "train", options.photos)
    asked = list(Sources([data / "clothing" / "validation"]))
    relevant = labels(asked)[:, None] == labels(train)[None, :]
    features: dict[str, tuple[Any, Any]] = {}
    figures: dict[str, Any] = {
        "backbone": "mobilenet_v2",
        "method": "itq128",
        "device": options.device,
        "database": len(train),
        "queries": len(asked),
    }
    heads: dict[str, Any] = {}
    for precision in PRECISIONS:
        encoder = create(
            "itq128",
            weights=data / "backbones" / "mobilenet_v2_imagenet.safetensors",
            input_size=225,
            mean=0.5,
            std=0.5,
            device=options.device,
            precision=precision,
        )
        started = time.perf_counter()
        found = [encoding.extract_features(items, encoder) for items in (train, asked)]  # type: ignore[arg-type]
        took = time.perf_counter() - started
        features[precision] = (found[0], found[1])
        heads[precision] = encoder.fit(found[0])  # type: ignore[union-attr]
        codes = [binarize(heads[precision].outputs(part)) for part in found]
        figures[precision] = {
            "mAP": round(mean_average_precision(codes[1], codes[0], relevant), 4),
            "images_per_second": round((len(train) + len(asked)) / took, 1),
        }
    flipped = [
        np.unpackbits(
            binarize(heads["float32"].outputs(ours)) ^ binarize(heads["float32"].outputs(theirs))
        ).mean()
        for ours, theirs in zip(*features.values(), strict=True)
    ]
    counts = [len(train), len(asked)]
    figures["flipped_bits"] = round(float(np.average(flipped, weights=counts)), 5)
    figures["change_of_mAP"] = round(figures["bfloat16"]["mAP"] - figures["float32"]["mAP"], 4)
    study.write("precision", study.command(), figures)


if __name__ == "__main__":
    main()
