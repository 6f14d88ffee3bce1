"""Coarse, fine and exhaustive search of the live table, pool by pool: recall, mAP and time.

    python -m benchmarks.coarse_fine clothing [--database URL]
    python -m benchmarks.coarse_fine cifar10 [--queries 1000]

128-bit ITQ codes of frozen mobilenet_v2 features, fitted on the training images, which are also the
database; queries: the photos of `validation`, or test images of CIFAR-10 drawn with a seed. The
features are computed once and kept in RETRIEVAL_DB_HOME. Codes and features lie in a table of
their own encoder while the study runs.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing, study
from retrieval_db import CodeSet, codes, connect, stages
from retrieval_db.console.screen import note, progress_bar
from retrieval_db.encoder.datasets import Dataset, open_data
from retrieval_db.encoder.heads import fit_itq
from retrieval_db.presentation import write_pools
from retrieval_db.query_sets import QuerySet

BITS = 128
POOLS = (50, 100, 200, 400, 1000)
K = 1000
SEED = 0
# Of the upscaled images: at ImageNet's 225 pixels the features take three times as long.
CIFAR_PIXELS = 129
STORED = "benchmark-coarse-fine"


@dataclass(frozen=True)
class Material:
    """Images with features; the rows that are stored, and those that are asked."""

    data: Dataset
    features: NDArray[np.float32]
    train: NDArray[np.int64]
    query: NDArray[np.int64]
    pixels: int


def material(name: str, queries: int) -> Material:
    """Open the data and get the features."""
    if name == "clothing":
        data, pixels = open_data(str(study.data_dir() / "clothing")), clothing.INPUT_SIZE
        query = data.splits["validation"]
    else:
        data = open_data(f"cifar10:{study.data_dir() / 'cifar10' / 'cifar10_jpeg.npz'}")
        pixels = CIFAR_PIXELS
        query = np.sort(np.random.default_rng(SEED).permutation(data.splits["test"])[:queries])
    features = clothing.features(data, pixels)
    return Material(data, features, data.splits["train"], query, pixels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["clothing", "cifar10"])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--database")
    given = parser.parse_args()
    found = material(given.data, given.queries)
    packed = codes.binarize(fit_itq(found.features[found.train], BITS, SEED)(found.features))

    def items(rows: NDArray[np.int64]) -> CodeSet:
        return CodeSet(
            packed[rows],
            BITS,
            paths=[found.data.images.path(row) for row in rows.tolist()],
            labels=[found.data.label_name(row) for row in rows.tolist()],
            features=found.features[rows],
            encoder=STORED,
        )

    with connect(given.database, report=note) as db:
        db.load(items(found.train))
        try:
            with progress_bar("Searching", len(found.query)) as advance:
                scores = stages.compare(
                    db.connection,
                    db.encoder(STORED),
                    QuerySet.of(items(found.query)),
                    k=K,
                    pools=POOLS,
                    progress=advance,
                )
            server = db.info().postgresql
        finally:
            db.remove_encoder(STORED)
    title = f"{found.data.name}, itq{BITS}"
    study.write(
        f"coarse-fine-{given.data}",
        study.command(),
        {
            "postgresql": server,
            "data": found.data.name,
            "features": f"mobilenet_v2 (ImageNet), {found.pixels} pixels, frozen",
            "dimensions": found.features.shape[1],
            "codes": f"itq{BITS}, fitted on the database",
            "database": len(found.train),
            "queries": len(found.query),
            "seed": SEED,
            "load_average": round(os.getloadavg()[0], 1),
            "stages": [score.as_dict() for score in scores],
        },
    )
    write_pools(scores, study.ROOT / "docs" / f"pools-{given.data}", title, formats=["png"])
    clothing.write_page()


if __name__ == "__main__":
    main()
