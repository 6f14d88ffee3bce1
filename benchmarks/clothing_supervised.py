"""Clothing photos: 64-bit codes that learnt from labels, beside cosine of the same features.

    python -m benchmarks.clothing_supervised [--protocol full|unseen] [--seeds 0,1,2]

Frozen features of ImageNet's mobilenet_v2 at 225 pixels, computed once and kept in .data/.
Everything is fitted on the 3,068 photos of `train`, which are also the database; the 341 of
`validation` are the queries, asked once for each seed. With `unseen`, three of the ten classes,
drawn with the seed, are left out of the fit, and only they are searched. mAP over the whole
ranking.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import numpy as np

from benchmarks import frozen, study
from retrieval_db.console.screen import progress_bar
from retrieval_db.encoder import datasets, training
from retrieval_db.encoder.features import extract
from retrieval_db.encoder.hashing.recipes import FROZEN

BITS = 64
INPUT_SIZE = 225


def load(*, flip: bool = False) -> frozen.Bench:
    """The photos with their features."""
    folder = study.data_dir()
    data = datasets.open_data(str(folder / "clothing"))
    base = training.unfitted(
        "mobilenet_v2",
        weights=folder / "backbones" / "mobilenet_v2_imagenet.safetensors",
        device="cpu",
        cache_dir=frozen.CACHE,
        changes={"input_size": INPUT_SIZE, "mean": 0.5, "std": 0.5, "flip": flip},
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
    parser.add_argument("--protocol", choices=("full", "unseen"), default="full")
    given = parser.parse_args()
    commit = study.commit()
    bench = load()
    splits = {int(seed): bench.split(given.protocol, int(seed)) for seed in given.seeds.split(",")}
    scores: dict[str, list[float]] = {}
    for split in splits.values():
        for name, value in frozen.baselines(bench, split).items():
            scores.setdefault(f"{name} (floats)", []).append(round(value, 5))
    for method in (*frozen.UNSUPERVISED, *frozen.SUPERVISED):
        for seed, split in splits.items():
            found, _ = frozen.fitted(bench, split, method, seed, (BITS,))
            scores.setdefault(f"{method}, {BITS} bits", []).append(round(found[BITS], 5))
        print(method, list(scores.values())[-1], flush=True)
    study.write(
        f"clothing-{given.protocol}",
        study.command(),
        {
            "data": f"clothing photos, protocol {given.protocol}",
            "note": {str(seed): split.note for seed, split in splits.items()},
            "features": f"mobilenet_v2 (ImageNet), {INPUT_SIZE} pixels, frozen",
            "recipe": json.loads(replace(FROZEN, bits=(BITS,)).to_json()),
            "commit": commit,
            "versions": study.versions("torch"),
            "lines": [{"name": name, "map": values} for name, values in scores.items()],
        },
    )


if __name__ == "__main__":
    main()
