"""Near-duplicates: all pairs of 1 million codes, and groups of learned codes, beside FAISS.

    python -m benchmarks.duplicates [--database URL] [--rows N] [--seed N] [--repeat N]

Uniform 128-bit codes with planted pairs of 0 to 12 flipped bits, radius 7. The peer is FAISS
IndexBinaryFlat, range search of all codes against all; a sample of its queries is timed before
and after ours, and scaled up. Our pairs are held against the planted ones and against FAISS's
answers. Needs the package faiss-cpu.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable
from importlib.metadata import version
from statistics import median
from typing import Any

import faiss  # type: ignore[import-untyped, unused-ignore]
import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db import codes, connect, encoders
from retrieval_db.client import Database
from retrieval_db.interchange import CodeSet

BITS = 128
RADIUS = 7
PLANTED = 2_000
FLIPS = 12
QUERIES = 1_000
UNIFORM, LEARNED = "benchmark-duplicates", "benchmark-duplicates-sun397"

Packed = NDArray[np.uint8]


def uniform(rows: int, seed: int) -> tuple[Packed, int]:
    """Codes uint8 [rows, 16], and how many of the planted pairs lie within the radius."""
    random = np.random.default_rng(seed)
    packed = random.integers(0, 256, (rows, BITS // 8), dtype=np.uint8)
    chosen = random.choice(rows, 2 * PLANTED, replace=False)
    near = 0
    for source, copy in chosen.reshape(-1, 2):
        flips = int(random.integers(0, FLIPS + 1))
        bits = np.unpackbits(packed[source])
        bits[random.choice(BITS, flips, replace=False)] ^= 1
        packed[copy] = np.packbits(bits)
        near += flips <= RADIUS
    return packed, near


def load(db: Database, packed: Packed, name: str) -> None:
    """Store the codes under an encoder of their own."""
    if name in {stored.name for stored in db.encoders()}:
        encoders.remove(db.connection, name)
    paths = [f"{row:08d}.jpg" for row in range(len(packed))]
    db.load(CodeSet(packed, BITS, paths, encoder=name, fingerprint=name))


def seconds(work: Callable[[], Any]) -> tuple[float, Any]:
    """How long it took, and what came of it."""
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def faiss_seconds(packed: Packed, threads: int) -> float:
    """Range search of all codes, from a sample of the queries, on so many threads."""
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexBinaryFlat(BITS)
    index.add(packed)
    sample = packed[:: max(1, len(packed) // QUERIES)][:QUERIES]
    # FAISS excludes the radius itself.
    took, _ = seconds(lambda: index.range_search(sample, RADIUS + 1))
    return took / len(sample) * len(packed)


def faiss_pairs(packed: Packed) -> set[tuple[int, int]]:
    """Pairs with a row of the sample, as row numbers."""
    index = faiss.IndexBinaryFlat(BITS)
    index.add(packed)
    rows = np.arange(len(packed))[:: max(1, len(packed) // QUERIES)][:QUERIES]
    limits, _, found = index.range_search(packed[rows], RADIUS + 1)
    ends = np.asarray(limits, dtype=np.int64)
    of = np.repeat(rows, ends[1:] - ends[:-1])
    pairs = zip(of.tolist(), found.tolist(), strict=True)
    return {(min(pair), max(pair)) for pair in pairs if pair[0] != pair[1]}


def uniform_study(db: Database, rows: int, seed: int, repeat: int) -> dict[str, Any]:
    """Ours and FAISS in turns, on one core and on all."""
    packed, near = uniform(rows, seed)
    load(db, packed, UNIFORM)
    ours: dict[str, list[float]] = {"one_core": [], "all_cores": []}
    peer: dict[str, list[float]] = {"one_core": [], "all_cores": []}
    pairs: list[Any] = []
    for _ in range(repeat):
        for cores, setting, threads in (
            ("one_core", "SET max_parallel_workers_per_gather = 0", 1),
            ("all_cores", "RESET max_parallel_workers_per_gather", os.cpu_count() or 1),
        ):
            before = faiss_seconds(packed, threads)
            db.connection.execute(setting)
            took, pairs = seconds(lambda: db.near_duplicates(encoder=UNIFORM, radius=RADIUS))
            ours[cores].append(took)
            peer[cores].append((before + faiss_seconds(packed, threads)) / 2)
            print(f"{cores}: {took:.1f} s, FAISS {peer[cores][-1]:.0f} s", flush=True)
    found = {(int(pair.path_1[:-4]), int(pair.path_2[:-4])) for pair in pairs}
    sampled = set(range(0, rows, max(1, rows // QUERIES))[:QUERIES])
    met = {pair for pair in found if sampled & set(pair)}
    if len(found) < near or met != faiss_pairs(packed):
        raise SystemExit("The pairs are not those of FAISS.")
    return {
        "rows": rows,
        "seed": seed,
        "pairs": len(found),
        "planted_within_radius": near,
        **{
            cores: {
                "seconds": [round(value, 2) for value in ours[cores]],
                "faiss_seconds_scaled_up": [round(value, 1) for value in peer[cores]],
                "ratio": round(median(peer[cores]) / median(ours[cores]), 1),
            }
            for cores in ours
        },
    }


def learned_study(db: Database, repeat: int) -> dict[str, Any]:
    """Groups of the SUN397 codes, of which fewer than a tenth are distinct."""
    words = np.load(study.data_dir() / "codes" / "sun397_dplm128.npy")
    packed = codes.from_words(words.astype(np.int64), BITS)
    load(db, packed, LEARNED)
    times = []
    groups: list[Any] = []
    for _ in range(repeat):
        took, groups = seconds(lambda: db.duplicate_groups(encoder=LEARNED, radius=RADIUS))
        times.append(took)
    peer = faiss_seconds(packed, os.cpu_count() or 1)
    return {
        "rows": len(packed),
        "distinct": len(np.unique(packed, axis=0)),
        "groups": len(groups),
        "largest": len(groups[0].images),
        "seconds": [round(value, 2) for value in times],
        "faiss_seconds_scaled_up": round(peer, 1),
        "ratio": round(peer / median(times), 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    options = parser.parse_args()
    with connect(options.database, report=print) as db:
        server = db.connection.info.parameter_status("server_version")
        figures = {
            "postgresql": server,
            "faiss": version("faiss-cpu"),
            "bits": BITS,
            "radius": RADIUS,
            "uniform": uniform_study(db, options.rows, options.seed, options.repeat),
            "sun397": learned_study(db, options.repeat),
        }
        for name in (UNIFORM, LEARNED):
            encoders.remove(db.connection, name)
    study.write("duplicates", "python -m benchmarks.duplicates", figures)


if __name__ == "__main__":
    main()
