"""Retrieval of clothing photos by frozen features: float search beside codes, and their pools.

    python -m benchmarks.clothing [--tables]

--tables only writes the tables of docs/evaluation.md anew, from the result file.

Database and training set: the 3,068 photos of `train`; queries: the 341 of `validation`. The
features are those of mobilenet_v2 with the weights in the data folder, computed once and kept in
.data/. Everything is fitted on `train`, without labels; three seeds where something
is drawn. Labels, the photos' folders, are used for nothing but the score.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from statistics import mean, stdev
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing_supervised, study
from benchmarks.pages import replaced, rewrite, table
from retrieval_db import codes, evaluation
from retrieval_db.console.screen import note
from retrieval_db.encoder.datasets import Dataset
from retrieval_db.encoder.hashing.heads import LinearHead, fit_itq, fit_lsh, fit_pca_rr, unit_rows
from retrieval_db.evaluation import metrics, ties

NAME = "clothing"
PAGE = study.ROOT / "docs" / "evaluation.md"
BEGIN = "<!-- written by python -m benchmarks.clothing -->"

INPUT_SIZE = 225
STORED = "benchmark-clothing"
SEEDS = (0, 1, 2)
POOLS = (20, 50, 100, 200, 400)
NEIGHBOURS = 10

Fit = Callable[[NDArray[np.float32], int, int], LinearHead]
METHODS: dict[str, tuple[Fit, tuple[int, ...]]] = {
    "itq": (fit_itq, (32, 48, 64, 128)),
    "lsh": (fit_lsh, (64, 128)),
    "pca_rr": (fit_pca_rr, (64, 128)),
}


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


def tables() -> list[str]:
    """The tables of the page, from the result files that are there."""
    lines = []
    for name, shown in (
        (NAME, _codes_and_pools),
        ("coarse-fine-clothing", _stages),
        ("coarse-fine-cifar10", _stages),
    ):
        file = study.RESULTS / f"{name}.json"
        if file.is_file():
            lines += shown(json.loads(file.read_text()))
    return lines


def _codes_and_pools(figures: dict[str, Any]) -> list[str]:
    each = [
        (name, *(_shown(found[key]) for key in ("map", "precision_at_10")))
        for name, found in figures.items()
        if isinstance(found, dict) and "map" in found
    ]
    pools = [
        (
            pool,
            *(_shown(found[key]) for key in ("recall_at_10", "with_ties")),
            f"{found['size_median']['mean']:.0f} (p95 {found['size_p95']['mean']:.0f})",
        )
        for pool, found in figures["itq128"]["pools"].items()
    ]
    return [
        f"`{figures['command']}`, {figures['date']}: {figures['database']:,} photos, "
        f"{figures['queries']} queries, seeds {', '.join(map(str, figures['seeds']))}.",
        "",
        *table(("", "mAP", "precision@10"), each),
        *table(("itq128, pool", "recall@10", "with its whole last tie", "then its size"), pools),
    ]


def _stages(figures: dict[str, Any]) -> list[str]:
    live = [
        (
            one["stage"] + (f", pool {one['pool']}" if one["pool"] else ""),
            "" if one["pool"] is None else f"{one['pool_size_median']:.0f}",
            f"{one['recall_at_10']:.3f}",
            f"{one['recall_at_100']:.3f}",
            f"{one['mean_average_precision']:.3f}",
            f"{one['milliseconds_median']:.1f}",
        )
        for one in figures["stages"]
    ]
    return [
        f"{figures['data']} in PostgreSQL {figures['postgresql']}, `{figures['command']}`, "
        f"{figures['date']}, {figures['machine']['processor']}, load average "
        f"{figures['load_average']}: {figures['database']:,} images, {figures['queries']:,} "
        f"queries, {figures['dimensions']:,} dimensions at {figures['features'].split(', ')[1]}.",
        "",
        *table(("", "pool size", "recall@10", "recall@100", "mAP@1000", "ms"), live),
    ]


def _shown(value: dict[str, float] | float) -> str:
    """A figure, with its deviation if it has one."""
    if isinstance(value, dict):
        return f"{value['mean']:.3f} ± {value['sd']:.3f}"
    return f"{value:.3f}"


def written(page: str) -> str:
    """The page with the tables as the result files have them."""
    return replaced(page, tables(), BEGIN)


def measured() -> dict[str, Any]:
    """All figures."""
    bench = clothing_supervised.load()
    data, x = bench.data, bench.features
    train, query = data.splits["train"], data.splits["validation"]
    unit = unit_rows(x)
    centred = unit - unit[train].mean(axis=0)
    # The exhaustive search that a fine stage stands for: cosine of the features as they are.
    near = ties.nearest(x[query], x[train], NEIGHBOURS)
    figures: dict[str, Any] = {
        "database": len(train),
        "queries": len(query),
        "classes": len(data.classes),
        "features": f"mobilenet_v2 (ImageNet), {bench.input_size} pixels, frozen",
        "seeds": list(SEEDS),
        "cosine": floats(x, train, query, data),
        "cosine, centred": floats(centred, train, query, data),
    }
    for name, (fit, widths) in METHODS.items():
        for bits in widths:
            note(f"{name}{bits}")
            figures[f"{name}{bits}"] = hashed(fit, bits, x, near, train, query, data)
    pools = figures["itq128"]["pools"]
    best = figures["cosine, centred"]["map"]
    figures["targets"] = {
        "itq128 recall@10, pool 100": {"target": 0.93, "reached": pools["100"]["recall_at_10"]},
        "itq128 recall@10, pool 200": {"target": 0.97, "reached": pools["200"]["recall_at_10"]},
        "itq128 mAP ÷ centred cosine's": {
            "target": 0.97,
            "reached": round(figures["itq128"]["map"]["mean"] / best, 4),
        },
    }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tables", action="store_true", help="write the page, measure nothing")
    given = parser.parse_args()
    if not given.tables:
        figures = measured()
        study.write(NAME, study.command(), figures)
        for name, found in figures["targets"].items():
            print(name, found)
    rewrite(PAGE, written)


if __name__ == "__main__":
    main()
