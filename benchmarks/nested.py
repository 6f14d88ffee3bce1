"""Nested codes: what a prefix of a 64-bit code is worth, with and without nesting.

    python -m benchmarks.nested clothing [--seeds 0,1,2] [--methods …]
    python -m benchmarks.nested cifar10
    python -m benchmarks.nested search [--database URL]

On the frozen features of `benchmarks.clothing_supervised` and `benchmarks.frozen`: codes of 16, 32
and 64 bits of their own, the first 16 and 32 bits of an ordinary 64-bit code, and those of a
nested one (`nested=16`; of `itq`: `nested_itq`, and block by block). mAP as the protocol has it;
of `itq` also the share of the ten nearest by cosine that the 100 nearest codes hold. Each line is
added to the result file as it is found.

`search` loads ordinary and nested 64-bit codes of CIFAR-10's training images into PostgreSQL and
asks for the neighbours of test images: sizes of buckets, candidates and times.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks import clothing_supervised, databases, frozen, study
from benchmarks.frozen import Features
from retrieval_db import codes
from retrieval_db.client import Database
from retrieval_db.console.fitting import FIT_ON
from retrieval_db.encoder import datasets
from retrieval_db.encoder.hashing.heads import (
    LinearHead,
    centred,
    fit_itq,
    fit_nested_itq,
    principal,
    quantising_rotation,
)
from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.training.feature_heads import descended_heads
from retrieval_db.evaluation import metrics, ties
from retrieval_db.search.query import as_query

WIDTHS = (16, 32, 64)
PROTOCOLS = {"clothing": "full", "cifar10": "cvprw15"}
LEARNT = tuple(name for name, method in METHODS.items() if method.trained)
CIFAR_METHODS = ("itq", "orthohash", "greedyhash")
CIFAR_PIXELS = 129
NEAREST, POOL, RECALL_QUERIES = 10, 100, 500
K, QUERIES, WARM_UP = 10, 200, 20
KEPT = frozen.CACHE / "nested"  # codes of CIFAR-10, which are searched


def bench_of(name: str) -> frozen.Bench:
    return clothing_supervised.load() if name == "clothing" else frozen.load(CIFAR_PIXELS)


def learnt(
    bench: frozen.Bench, split: datasets.Split, method: str, seed: int
) -> tuple[dict[int, LinearHead], dict[str, LinearHead]]:
    """Heads of each width of its own, and nested ones of the last."""
    rows = split.train
    if method == "itq":
        if len(rows) > FIT_ON:
            rows = np.sort(np.random.default_rng(seed).permutation(rows)[:FIT_ON])
        x = bench.features[rows]
        own = {bits: fit_itq(x, bits, seed) for bits in WIDTHS}
        return own, {"nested": fit_nested_itq(x, WIDTHS[-1], seed), "blocks": blocks(x, seed)}
    present, numbers = np.unique(bench.data.labels[rows], return_inverse=True)
    classes = tuple(bench.data.classes[index] for index in present)

    def trained(bits: tuple[int, ...], nested: int) -> dict[int, LinearHead]:
        options = {"nested": float(nested)}
        recipe = replace(FROZEN, method=method, bits=bits, seed=seed, options=options)
        heads, _ = descended_heads(
            bench.features[rows], numbers.astype(np.int64), classes, recipe, device="cpu"
        )
        found = {}
        for width, head in heads.items():
            assert isinstance(head.projection, LinearHead)
            found[width] = head.projection
        return found

    return trained(WIDTHS, 0), {"nested": trained(WIDTHS[-1:], WIDTHS[0])[WIDTHS[-1]]}


def blocks(x: Features, seed: int) -> LinearHead:
    """ITQ block by block: each part rotates the principal axes that are its own."""
    mean, axes, projected = principal(x, WIDTHS[-1])
    parts = [
        axes[:, before:after] @ quantising_rotation(projected[:, before:after], seed)
        for before, after in itertools.pairwise((0, *WIDTHS))
    ]
    return centred(mean, np.concatenate(parts, axis=1))


def measure(
    bench: frozen.Bench, split: datasets.Split, method: str, seed: int, keep: Path | None
) -> dict[str, dict[str, dict[str, float]]]:
    """Of codes of their own, prefixes of the longest, and prefixes of nested ones, each width's
    mAP; without labels, also the share of the ten nearest by cosine that a pool holds. The
    codes of all images are kept in a folder, if one is named."""
    own, nested = learnt(bench, split, method, seed)
    asked = np.concatenate([split.database, split.query])
    near = None
    if method == "itq":
        few = split.query[:: max(1, len(split.query) // RECALL_QUERIES)]
        near = few, ties.nearest(bench.features[few], bench.features[split.database], NEAREST)

    def outputs(head: LinearHead) -> Features:
        found = np.zeros((len(bench.data), head.weight.shape[1]), np.float32)
        found[asked] = head(bench.features[asked])
        return found

    each = {bits: outputs(head) for bits, head in own.items()}
    kinds = {"own": each, "prefix": {bits: each[WIDTHS[-1]][:, :bits] for bits in WIDTHS[:-1]}}
    for kind, head in nested.items():
        whole = outputs(head)
        kinds[kind] = {bits: whole[:, :bits] for bits in WIDTHS}
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        for kind, parts in kinds.items():
            for bits, part in parts.items():
                np.save(keep / f"{method}-{kind}-{bits}.npy", codes.binarize(part))
    figures: dict[str, dict[str, dict[str, float]]] = {"map": {}, "recall": {}}
    for kind, parts in kinds.items():
        figures["map"][kind] = {
            str(bits): round(frozen.hamming(bench, split, np.ascontiguousarray(part)), 5)
            for bits, part in parts.items()
        }
        if near is not None:
            figures["recall"][kind] = {
                str(bits): recall(codes.binarize(part), bits, split, *near)
                for bits, part in parts.items()
            }
    return {name: found for name, found in figures.items() if found}


def recall(
    packed: NDArray[np.uint8],
    bits: int,
    split: datasets.Split,
    asked: NDArray[np.int64],
    near: NDArray[np.int64],
) -> float:
    """The share of the nearest by cosine that are in a pool."""
    ranking = ties.by_neighbours(packed[asked], packed[split.database], bits, near)
    return round(float(metrics.recalls_at(ranking, POOL).mean()), 5)


def quality(name: str, seeds: list[int], methods: list[str]) -> None:
    """A line for each method and seed."""
    bench = bench_of(name)
    ledger = study.Ledger(
        f"nested-{name}",
        ("method", "seed"),
        {
            "data": bench.data.name if name == "cifar10" else "clothing photos",
            "protocol": PROTOCOLS[name],
            "features": f"mobilenet_v2 (ImageNet), {bench.input_size} pixels, frozen",
            "recipe": json.loads(replace(FROZEN, bits=WIDTHS).to_json()),
            "versions": study.versions("torch"),
            "recall": {"nearest": NEAREST, "pool": POOL, "queries_at_most": 2 * RECALL_QUERIES},
        },
    )
    for seed in seeds:
        split = bench.split(PROTOCOLS[name], seed)
        for method in methods:
            if not ledger.has(method, seed):
                started = time.perf_counter()
                keep = KEPT if name == "cifar10" and seed == 0 else None
                found = measure(bench, split, method, seed, keep)
                seconds = round(time.perf_counter() - started, 1)
                ledger.add(method=method, seed=seed, **found, seconds=seconds)


def search(database: str | None, methods: list[str]) -> None:
    """Load each kind of codes, look at its buckets, and ask for the neighbours of test images."""
    data = datasets.open_data(f"cifar10:{study.data_dir() / 'cifar10' / 'cifar10_jpeg.npz'}")
    known, test = data.splits["train"], data.splits["test"]
    asked = np.sort(np.random.default_rng(0).permutation(test)[:QUERIES])
    commit = study.commit()
    lines = []
    with databases.fresh(database, "bench_nested") as db:
        server = db.info().postgresql
        for method, kind, bits in itertools.product(methods, ("own", "nested", "prefix"), (64, 16)):
            file = KEPT / f"{method}-{kind}-{bits}.npy"
            if (kind, bits) == ("prefix", 64):
                continue
            if not file.exists():
                sys.exit(f"{file.name} is not there: python -m benchmarks.nested cifar10")
            packed = np.load(file)
            lines.append(
                {
                    "method": method,
                    "kind": kind,
                    "bits": bits,
                    **buckets(packed[known], packed[asked]),
                    **searched(db, f"{method}-{kind}-{bits}", packed[known], packed[asked], bits),
                }
            )
            print(lines[-1], flush=True)
    study.write(
        "nested-search",
        study.command(),
        {
            "postgresql": server,
            "data": data.name,
            "features": f"mobilenet_v2 (ImageNet), {CIFAR_PIXELS} pixels, frozen",
            "rows": len(known),
            "queries": len(asked),
            "k": K,
            "commit": commit,
            "load_average": round(os.getloadavg()[0], 1),
            "lines": lines,
        },
    )


def buckets(known: NDArray[np.uint8], asked: NDArray[np.uint8]) -> dict[str, float | None]:
    """Of the codes, and of the rows that share a query's chunk of 16 bits: the first, the others
    on the mean."""
    met = []
    for chunk in range(known.shape[1] // 2):
        values, counts = np.unique(
            known[:, 2 * chunk : 2 * chunk + 2].copy().view(np.uint16), return_counts=True
        )
        size = dict(zip(values.tolist(), counts.tolist(), strict=True))
        if chunk == 0:
            first = {"distinct": len(values), "largest": int(counts.max())}
        wanted = asked[:, 2 * chunk : 2 * chunk + 2].copy().view(np.uint16)[:, 0]
        met.append(float(np.mean([size.get(value, 0) for value in wanted.tolist()])))
    return {
        "distinct": len(np.unique(known, axis=0)),
        "first_chunk_distinct": first["distinct"],
        "first_chunk_largest": first["largest"],
        "first_chunk_met": round(met[0], 1),
        "other_chunks_met": round(float(np.mean(met[1:])), 1) if met[1:] else None,
    }


def searched(
    db: Database, name: str, known: NDArray[np.uint8], asked: NDArray[np.uint8], bits: int
) -> dict[str, float]:
    """Candidates and milliseconds of a search for the ten nearest."""
    databases.load(db, name, known, bits)
    queries = [as_query(code, bits) for code in asked]
    for query in queries[:WARM_UP]:
        db.search(query, encoder=name, k=K)
    found = [db.search(query, encoder=name, k=K) for query in queries]
    db.remove_encoder(name)
    spent = [one.milliseconds for one in found]
    return {
        "scanned": round(float(np.mean([one.plan == "scan" for one in found])), 3),
        "candidates_median": float(np.median([one.candidates or 0 for one in found])),
        "milliseconds_median": round(float(np.median(spent)), 3),
        "milliseconds_p95": round(float(np.percentile(spent, 95)), 3),
        "distance_of_the_tenth": float(np.mean([one.hits[-1].distance for one in found])),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("clothing", "cifar10", "search"))
    parser.add_argument("--database")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--methods")
    given = parser.parse_args()
    usual = ("itq", *LEARNT) if given.study == "clothing" else CIFAR_METHODS
    methods = given.methods.split(",") if given.methods else list(usual)
    if given.study == "search":
        search(given.database, methods)
    else:
        quality(given.study, list(map(int, given.seeds.split(","))), methods)


if __name__ == "__main__":
    main()
