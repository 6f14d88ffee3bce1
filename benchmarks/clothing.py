"""Retrieval of clothing photos by frozen features: float search beside codes, and their pools.

    python -m benchmarks.clothing

Database and training set: the 3,068 photos of `train`; queries: the 341 of `validation`. The
features are those of mobilenet_v2 with the weights in the data folder, computed once and kept in
RETRIEVAL_DB_HOME. Everything is fitted on `train`, without labels; three seeds where something
is drawn. Labels, the photos' folders, are used for nothing but the score.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db import codes, evaluation, metrics, ties
from retrieval_db.console.screen import note, progress_bar
from retrieval_db.encoder import create
from retrieval_db.encoder.datasets import Dataset, open_data
from retrieval_db.encoder.files import home_folder, write_atomically
from retrieval_db.encoder.heads import LinearHead, fit_itq, fit_lsh, fit_pca_rr, unit_rows
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.outputs import respond

INPUT_SIZE = 225
SEEDS = (0, 1, 2)
POOLS = (20, 50, 100, 200, 400)
NEIGHBOURS = 10

Fit = Callable[[NDArray[np.float32], int, int], LinearHead]
METHODS: dict[str, tuple[Fit, tuple[int, ...]]] = {
    "itq": (fit_itq, (32, 48, 64, 128)),
    "lsh": (fit_lsh, (64, 128)),
    "pca_rr": (fit_pca_rr, (64, 128)),
}


def features(data: Dataset) -> NDArray[np.float32]:
    """Of every photo, float32 [N, D]; computed by the first run."""
    weights = study.data_dir() / "backbones" / "mobilenet_v2_imagenet.safetensors"
    network = create("itq128", weights=weights, input_size=INPUT_SIZE, mean=0.5, std=0.5)
    assert isinstance(network, NetworkEncoder)
    listed = "\n".join(data.images.path(row) for row in range(len(data)))
    known = f"{network.backbone.sha256}\n{network.preprocess}\n{listed}"
    digest = hashlib.sha256(known.encode()).hexdigest()
    kept = home_folder() / "features" / f"clothing-{digest[:16]}.npy"
    if not kept.is_file():
        with progress_bar("Features", len(data)) as advance:
            found = respond(network, data.images, np.arange(len(data)), progress=advance)
        assert not found.skipped
        write_atomically(kept, lambda file: np.save(file, found.values))
    values: NDArray[np.float32] = np.load(kept)
    return values


def floats(
    x: NDArray[np.floating], train: NDArray[np.int64], query: NDArray[np.int64], data: Dataset
) -> dict[str, Any]:
    """mAP of the exhaustive search by cosine."""
    rankings = evaluation.by_cosine(x[query], x[train], data.labels[query], data.labels[train])
    found = evaluation.evaluate("cosine", rankings, hamming=False)
    return {
        "map": round(found.mean_average_precision, 4),
        "precision_at_10": round(found.precision_at.at(10) or 0.0, 4),
    }


def hashed(
    fit: Fit,
    bits: int,
    x: NDArray[np.float32],
    near: NDArray[np.int64],
    train: NDArray[np.int64],
    query: NDArray[np.int64],
    data: Dataset,
) -> dict[str, Any]:
    """mAP of codes, and what their pools hold of the exhaustive search's first ten."""
    runs = []
    for seed in SEEDS:
        packed = codes.binarize(fit(x[train], bits, seed)(x))
        ranking = ties.by_label(
            packed[query], packed[train], bits, data.labels[query], data.labels[train]
        )
        score = evaluation.evaluate("codes", ranking)
        neighbours = ties.by_neighbours(packed[query], packed[train], bits, near)
        pools = {}
        for pool in POOLS:
            whole = metrics.pools_with_ties(neighbours, pool)
            pools[pool] = {
                "recall_at_10": float(metrics.recalls_at(neighbours, pool).mean()),
                "with_ties": float(whole.recall.mean()),
                "size_median": float(np.median(whole.size)),
                "size_p95": float(np.percentile(whole.size, 95)),
            }
        runs.append((score.mean_average_precision, score.precision_at.at(10) or 0.0, pools))
    return {
        "map": spread([run[0] for run in runs]),
        "precision_at_10": spread([run[1] for run in runs]),
        "pools": {
            str(pool): {
                key: spread([run[2][pool][key] for run in runs]) for key in runs[0][2][pool]
            }
            for pool in POOLS
        },
    }


def spread(values: list[float]) -> dict[str, float]:
    """Mean and standard deviation over the seeds."""
    return {"mean": round(mean(values), 4), "sd": round(stdev(values), 4)}


def main() -> None:
    data = open_data(str(study.data_dir() / "clothing"))
    train, query = data.splits["train"], data.splits["validation"]
    x = features(data)
    unit = unit_rows(x)
    centred = unit - unit[train].mean(axis=0)
    # The exhaustive search that a fine stage stands for: cosine of the features as they are.
    near = ties.nearest(x[query], x[train], NEIGHBOURS)
    figures: dict[str, Any] = {
        "database": len(train),
        "queries": len(query),
        "classes": len(data.classes),
        "weights": Path("mobilenet_v2_imagenet.safetensors").name,
        "seeds": list(SEEDS),
        "cosine": floats(x, train, query, data),
        "cosine of centred features": floats(centred, train, query, data),
    }
    for name, (fit, widths) in METHODS.items():
        for bits in widths:
            note(f"{name}{bits}")
            figures[f"{name}{bits}"] = hashed(fit, bits, x, near, train, query, data)
    pools = figures["itq128"]["pools"]
    best = figures["cosine of centred features"]["map"]
    figures["targets"] = {
        "itq128 recall@10, pool 100": {"target": 0.93, "reached": pools["100"]["recall_at_10"]},
        "itq128 recall@10, pool 200": {"target": 0.97, "reached": pools["200"]["recall_at_10"]},
        "itq128 mAP ÷ centred cosine's": {
            "target": 0.97,
            "reached": round(figures["itq128"]["map"]["mean"] / best, 4),
        },
    }
    study.write("clothing", "python -m benchmarks.clothing", figures)
    for name, found in figures["targets"].items():
        print(name, found)


if __name__ == "__main__":
    main()
