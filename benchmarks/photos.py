"""Precision@10 by label on real photos: coarse and fine stage, fitted on train only.

    python -m benchmarks.photos [--database URL]

Database: the 3,068 clothing photos of `train`; queries: the 341 of `validation`, which the
encoder never saw. Labels are the photos' folders and are used for nothing but the score.
"""

from __future__ import annotations

import argparse
from statistics import mean, median
from typing import Any

from benchmarks import study
from retrieval_db import connect, photos, query_photo
from retrieval_db.client import Database
from retrieval_db.console.choosing import for_indexing
from retrieval_db.console.groups import Network
from retrieval_db.console.screen import note, progress_bar
from retrieval_db.console.settings import Settings
from retrieval_db.encoders import Encoder
from retrieval_db.photos import Sources, label_reader

NAME = "clothing-itq128"


def build(db: Database) -> Encoder:
    """Index the photos of `train`; what is there already is used again."""
    data = study.data_dir()
    images = Sources([data / "clothing" / "train"])
    settings = Settings(
        spec="itq128",
        name=NAME,
        network=Network(
            weights=data / "backbones" / "mobilenet_v2_imagenet.safetensors",
            input_size=225,
            mean="0.5",
            std="0.5",
        ),
    )
    encoder = for_indexing(db, images, settings, say=note)
    with progress_bar("Indexing", images.count()) as advance:
        db.index(
            images,
            encoder=encoder,
            labels=label_reader("folder"),
            progress=advance,
        )
    return encoder


def precision(db: Database, encoder: Encoder, **options: Any) -> dict[str, Any]:
    """Precision@10 over the queries, with the pool and the time."""
    folder = study.data_dir() / "clothing" / "validation"
    scores, pools, times = [], [], []
    for file in photos.find(folder):
        query = QUERIES.setdefault(str(file), query_photo(file, encoder))
        result = db.search(query, encoder=NAME, k=10, **options)
        scores.append(mean(hit.label == file.parent.name for hit in result.hits))
        pools.append(result.pool_size or 0)
        times.append(result.milliseconds)
    return {
        "queries": len(scores),
        "precision_at_10": round(mean(scores), 4),
        "pool_size_median": median(pools) or None,
        "milliseconds_median": round(median(times), 2),
    }


QUERIES: dict[str, Any] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--database")
    with connect(parser.parse_args().database, report=note) as db:
        encoder = build(db)
        figures = {
            "coarse": precision(db, encoder, stage="coarse"),
            "fine": precision(db, encoder, stage="fine"),
        }
    study.write("photos", "python -m benchmarks.photos", figures)
    for stage, found in figures.items():
        print(stage, found)


if __name__ == "__main__":
    main()
