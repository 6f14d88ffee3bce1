"""Clothing photos: 64-bit codes that learnt from labels, beside cosine of the same features.

    python -m benchmarks.clothing_supervised [--seeds 0,1,2]

Frozen features of ImageNet's mobilenet_v2 at 225 pixels, computed once and kept in .data/.
Everything is fitted on the 3,068 photos of `train`, which are also the database; the 341 of
`validation` are the queries, asked once for each seed. mAP over the whole ranking.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from typing import Any

import numpy as np

from benchmarks import frozen, study
from retrieval_db.console.screen import progress_bar
from retrieval_db.encoder import datasets, training
from retrieval_db.encoder.features import extract
from retrieval_db.encoder.recipes import FROZEN

NAME = "clothing-supervised"
BITS = 64
INPUT_SIZE = 225


def load() -> frozen.Bench:
    """The photos with their features."""
    folder = study.data_dir()
    data = datasets.open_data(str(folder / "clothing"))
    base = training.unfitted(
        "mobilenet_v2",
        weights=folder / "backbones" / "mobilenet_v2_imagenet.safetensors",
        device="cpu",
        cache_dir=frozen.CACHE,
        changes={"input_size": INPUT_SIZE, "mean": 0.5, "std": 0.5},
    )
    with progress_bar("Features", len(data)) as advance:
        found = extract(
            base, data.images, np.arange(len(data)), cache_dir=frozen.CACHE, progress=advance
        )
    assert len(found.rows) == len(data), found.skipped
    return frozen.Bench(data, found.features, INPUT_SIZE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    commit = study.commit()
    bench = load()
    split = bench.split("full", 0)
    lines: list[dict[str, Any]] = [
        {"name": f"{name} (floats)", "map": [round(value, 5)]}
        for name, value in frozen.baselines(bench, split).items()
    ]
    for method in (*frozen.UNSUPERVISED, *frozen.SUPERVISED):
        found = []
        for seed in map(int, given.seeds.split(",")):
            scores, _ = frozen.fitted(bench, split, method, seed, (BITS,))
            found.append(round(scores[BITS], 5))
        lines.append({"name": f"{method}, {BITS} bits", "map": found})
        print(lines[-1], flush=True)
    study.write(
        NAME,
        study.command(),
        {
            "data": f"clothing photos, protocol full ({split.note})",
            "features": f"mobilenet_v2 (ImageNet), {INPUT_SIZE} pixels, frozen",
            "recipe": json.loads(replace(FROZEN, bits=(BITS,)).to_json()),
            "commit": commit,
            "versions": study.versions("torch"),
            "lines": lines,
        },
    )


if __name__ == "__main__":
    main()
