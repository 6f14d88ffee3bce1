"""Coarse, fine and exhaustive search of the live table, pool by pool: recall, mAP and time.

    python -m benchmarks.coarse_fine clothing [--database URL | --draw]
    python -m benchmarks.coarse_fine cifar10 [--queries 1000]

128-bit ITQ codes of frozen mobilenet_v2 features, fitted on the training images, which are also the
database; queries: the photos of `validation`, or test images of CIFAR-10 drawn with a seed. The
features are computed once and kept in .data/. Codes and features lie in a table of
their own encoder while the study runs.
"""

from __future__ import annotations

import argparse
import json
import os

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing, clothing_supervised, frozen, study
from benchmarks.pages import rewrite
from retrieval_db import CodeSet, codes, connect
from retrieval_db.console.screen import note, progress_bar
from retrieval_db.encoder.hashing.heads import fit_itq
from retrieval_db.evaluation import QuerySet, StageScore, stages
from retrieval_db.presentation import write_pools

BITS = 128
POOLS = (50, 100, 200, 400, 1000)
K = 1000
SEED = 0
# Of the upscaled images: at ImageNet's 225 pixels the features take three times as long.
CIFAR_PIXELS = 129
STORED = "benchmark-coarse-fine"


def material(name: str, queries: int) -> tuple[frozen.Bench, NDArray[np.int64]]:
    """The images with their features, and which of them are asked."""
    if name == "clothing":
        bench = clothing_supervised.load()
        return bench, bench.data.splits["validation"]
    bench = frozen.load(CIFAR_PIXELS)
    test = np.random.default_rng(SEED).permutation(bench.data.splits["test"])
    return bench, np.sort(test[:queries])


def measure(name: str, queries: int, database: str | None) -> None:
    """Search the table in every way, and write the result file."""
    found, query = material(name, queries)
    train = found.data.splits["train"]
    packed = codes.binarize(fit_itq(found.features[train], BITS, SEED)(found.features))

    def items(rows: NDArray[np.int64]) -> CodeSet:
        return CodeSet(
            packed[rows],
            BITS,
            paths=[found.data.images.path(row) for row in rows.tolist()],
            labels=[found.data.label_name(row) for row in rows.tolist()],
            features=found.features[rows],
            encoder=STORED,
        )

    with connect(database, report=note) as db:
        db.load(items(train))
        try:
            with progress_bar("Searching", len(query)) as advance:
                scores = stages.compare(
                    db.connection,
                    db.encoder(STORED),
                    QuerySet.of(items(query)),
                    k=K,
                    pools=POOLS,
                    progress=advance,
                )
            server = db.info().postgresql
        finally:
            db.remove_encoder(STORED)
    study.write(
        f"coarse-fine-{name}",
        study.command(),
        {
            "postgresql": server,
            "data": found.data.name,
            "features": f"mobilenet_v2 (ImageNet), {found.input_size} pixels, frozen",
            "dimensions": found.features.shape[1],
            "codes": f"itq{BITS}, fitted on the database",
            "database": len(train),
            "queries": len(query),
            "seed": SEED,
            "load_average": round(os.getloadavg()[0], 1),
            "stages": [score.as_dict() for score in scores],
        },
    )


def draw(name: str) -> None:
    """The figure and the tables, from the result file."""
    figures = json.loads((study.RESULTS / f"coarse-fine-{name}.json").read_text())
    scores = [StageScore(**one) for one in figures["stages"]]
    title = f"{figures['data']}, itq{BITS}, {figures['database']:,} images"
    write_pools(scores, study.ROOT / "docs" / f"pools-{name}", title, formats=["png"])
    rewrite(clothing.PAGE, clothing.written)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", choices=["clothing", "cifar10"])
    parser.add_argument("--queries", type=int, default=1000)
    parser.add_argument("--database")
    parser.add_argument("--draw", action="store_true", help="only from the result file")
    given = parser.parse_args()
    if not given.draw:
        measure(given.data, given.queries, given.database)
    draw(given.data)


if __name__ == "__main__":
    main()
