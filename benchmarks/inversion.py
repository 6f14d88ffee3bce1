"""Why some methods stand elsewhere than in the papers on the clothing photos: a probe.

    python -m benchmarks.inversion [--seeds 0,1,2]

Heads of 64 bits on the frozen features of `benchmarks.clothing_supervised`, learnt on nine in ten
training photos of each class; the tenth is asked. The validation photos play no part, and nothing
is chosen here: each method is looked at with the usual recipe; those that descend with four times
the epochs, on as many photos of each class as the smallest has (for as many steps), and with
another scale and margin, or γ; `ksh` with more photos and anchors.

Of each: mAP of training photos among the others, and of the photos held out; that of the three
smallest classes alone; how many bits of a code differ from its class's (the majority of the
training codes), mean over the training photos and over those held out; and the distance of the
two classes whose codes are nearest to each other.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing_supervised, frozen, study
from benchmarks.clothing_supervised import BITS
from retrieval_db import codes
from retrieval_db.encoder import datasets
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.training.feature_heads import descended_heads, fitted_head
from retrieval_db.encoder.training.targets import minimum_distance
from retrieval_db.evaluation import metrics, ties

NAME = "inversion"
SMALL = 3  # classes
ALL = 1e6  # photos: more than there are
EVERY = 5  # of the training photos, this one is asked

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Variant:
    """What is done otherwise than usual.

    Attributes:
        times: as many epochs.
        balanced: as many photos of each class.
        options: of the method.
    """

    name: str
    method: str
    times: int = 1
    balanced: bool = False
    options: Mapping[str, float] = field(default_factory=dict)


VARIANTS = [
    *(
        Variant(name, method, times, balanced)
        for method in ("csq", "hashnet", "orthohash", "dch")
        for name, times, balanced in (
            ("usual", 1, False),
            ("four times the epochs", 4, False),
            ("balanced classes", 1, True),
        )
    ),
    Variant("margin 0", "orthohash", options={"margin": 0.0}),
    Variant("margin 0.5", "orthohash", options={"margin": 0.5}),
    Variant("scale 16", "orthohash", options={"scale": 16.0}),
    Variant("γ 10", "dch", options={"gamma": 10.0}),
    Variant("γ 50", "dch", options={"gamma": 50.0}),
    Variant("usual", "itq_cca"),
    Variant("usual", "ksh"),
    Variant("1,000 anchors", "ksh", options={"anchors": 1000}),
    Variant("all photos", "ksh", options={"samples": ALL}),
    Variant("all photos, 1,000 anchors", "ksh", options={"samples": ALL, "anchors": 1000}),
]


def measure(
    bench: frozen.Bench, split: datasets.Split, variant: Variant, seed: int
) -> dict[str, float]:
    """One head, learnt and looked at."""
    rows, labels = split.train, bench.data.labels
    recipe = replace(
        FROZEN,
        method=variant.method,
        bits=(BITS,),
        seed=seed,
        epochs=variant.times * FROZEN.epochs,
        options=variant.options,
    )
    if variant.balanced:
        rows = _balanced(rows, labels, seed)
        recipe = replace(recipe, epochs=round(recipe.epochs * len(split.train) / len(rows)))
    learnt = bench.features[rows], labels[rows], bench.data.classes
    if recipe.kind.trained:
        heads, _ = descended_heads(*learnt, recipe, device="cpu")
        head = heads[BITS]
    else:
        head = fitted_head(*learnt, recipe, BITS)
    packed = codes.binarize(head.projection(bench.features))
    bits = np.unpackbits(packed, axis=1).astype(np.int8) * 2 - 1
    of_class = np.stack(
        [
            np.where(bits[rows[labels[rows] == number]].sum(axis=0) > 0, 1, -1)
            for number in range(len(bench.data.classes))
        ]
    ).astype(np.int8)
    held = _precisions(packed, labels, split.query, rows)
    sizes = np.bincount(labels[split.train])
    small = np.isin(labels[split.query], np.argsort(sizes)[:SMALL])
    asked = rows[::EVERY]
    return {
        "images": len(rows),
        "epochs": recipe.epochs,
        "map_train": float(_precisions(packed, labels, asked, rows).mean()),
        "map_held_out": float(held.mean()),
        "map_held_out_small_classes": float(held[small].mean()),
        "bits_off_train": _off(bits, of_class, labels, rows),
        "bits_off_held_out": _off(bits, of_class, labels, split.query),
        "nearest_classes": minimum_distance(of_class),
    }


def _balanced(rows: Rows, labels: Rows, seed: int) -> Rows:
    """As many rows of each class as the smallest has."""
    random = np.random.default_rng(seed)
    least = np.bincount(labels[rows]).min()
    drawn = [random.permutation(rows[labels[rows] == one])[:least] for one in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def _precisions(
    packed: NDArray[np.uint8], labels: Rows, asked: Rows, known: Rows
) -> NDArray[np.float64]:
    """AP of each query over the whole ranking; itself left out."""
    own = [np.flatnonzero(known == row) for row in asked]
    ranking = ties.by_label(
        packed[asked], packed[known], BITS, labels[asked], labels[known], left_out=own
    )
    return metrics.average_precisions(ranking)


def _off(bits: NDArray[np.int8], of_class: NDArray[np.int8], labels: Rows, rows: Rows) -> float:
    return float((bits[rows] != of_class[labels[rows]]).sum(axis=1).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", default="0,1,2")
    given = parser.parse_args()
    commit = study.commit()
    bench = clothing_supervised.load()
    split = datasets.validation(bench.data, bench.split("full", 0))
    lines: list[dict[str, Any]] = []
    for variant in VARIANTS:
        found = [measure(bench, split, variant, seed) for seed in map(int, given.seeds.split(","))]
        figures = {name: [round(one[name], 4) for one in found] for name in found[0]}
        lines.append({"method": variant.method, "name": variant.name, **figures})
        print(lines[-1], flush=True)
    sizes = np.bincount(bench.data.labels[split.train])
    study.write(
        NAME,
        study.command(),
        {
            "data": "clothing photos, a tenth of the training photos held out",
            "features": f"mobilenet_v2 (ImageNet), {bench.input_size} pixels, frozen",
            "recipe": json.loads(replace(FROZEN, bits=(BITS,)).to_json()),
            "commit": commit,
            "versions": study.versions("torch"),
            "images": dict(zip(bench.data.classes, sizes.tolist(), strict=True)),
            "held_out": len(split.query),
            "lines": lines,
        },
    )


if __name__ == "__main__":
    main()
