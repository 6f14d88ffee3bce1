"""What `--flip` gives: features of photos together with their mirror images, or of photos alone.

    python -m benchmarks.flip

Frozen features of ImageNet's mobilenet_v2 at 225 pixels, computed once and kept in .data/. ITQ is
fitted on the 3,068 clothing photos of `train`, which are also the database. Queries: the 341 of
`validation`, mAP over the whole ranking; and, of photos alone, the database's own photos mirrored,
each of which should find its original (with `--flip` it has the same code). Three seeds.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing, clothing_supervised, frozen, study
from retrieval_db import codes
from retrieval_db.console.screen import note
from retrieval_db.encoder.hashing.heads import fit_itq
from retrieval_db.evaluation import evaluate, ties

WIDTHS = (64, 128)


def asked(bench: frozen.Bench, mirrored: NDArray[np.float32] | None = None) -> dict[str, Any]:
    """mAP of codes, and how far mirrored copies are from their originals, by width."""
    x = bench.features
    data = bench.data
    train, query = data.splits["train"], data.splits["validation"]
    found = {}
    for bits in WIDTHS:
        scores, distances, first = [], [], []
        for seed in clothing.SEEDS:
            head = fit_itq(x[train], bits, seed)
            packed = codes.binarize(head(x))
            ranking = ties.by_label(
                packed[query], packed[train], bits, data.labels[query], data.labels[train]
            )
            scores.append(evaluate("codes", ranking).mean_average_precision)
            if mirrored is not None:
                copies = codes.binarize(head(mirrored[train]))
                table = codes.hamming_distances(copies, packed[train])
                own = np.diag(table)
                distances.append(float(own.mean()))
                first.append(float((own == table.min(axis=1)).mean()))
        line = {"map": clothing.spread(scores)}
        if mirrored is not None:
            line["distance_of_mirrored"] = clothing.spread(distances)
            line["original_is_nearest"] = clothing.spread(first)
        found[str(bits)] = line
    return found


def main() -> None:
    commit = study.commit()
    alone, both = (clothing_supervised.load(flip=flip) for flip in (False, True))
    # The mean of the two sides and one of them give the other.
    other = 2 * both.features - alone.features
    figures: dict[str, Any] = {"alone": asked(alone, other)}
    note(str(figures["alone"]))
    figures["flip"] = asked(both)
    note(str(figures["flip"]))
    study.write(
        "flip",
        study.command(),
        {
            "features": f"mobilenet_v2 (ImageNet), {alone.input_size} pixels, frozen",
            "database": len(alone.data.splits["train"]),
            "queries": len(alone.data.splits["validation"]),
            "seeds": list(clothing.SEEDS),
            "commit": commit,
            "versions": study.versions("torch"),
            **figures,
        },
    )


if __name__ == "__main__":
    main()
