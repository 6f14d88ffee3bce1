"""The cost of the fine stage: a pool of 200 of a million rows, beyond what the coarse stage costs.

    python -m benchmarks.fine [--database URL] [--rows 1000000] [--queries 200] [--dim 512 1280]

Clustered 128-bit codes and random features stored as half-floats. Each query is asked three times
in turn: the coarse stage with k = pool, both stages in one statement, and both with the whole
batch in one call. The difference of the first two is the fine stage. One core: no parallel
workers. Queries whose pool grew beyond twice its size by ties are counted apart.
"""

from __future__ import annotations

import argparse
import time
from contextlib import ExitStack
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo

from benchmarks import databases, study, workloads
from retrieval_db import CodeSet, Query, codes, connect
from retrieval_db.client import Database
from retrieval_db.loading import BATCH, Writer

BITS = 128
NAME = "benchmark-fine"
POOL = 200
TOO_LARGE = 2 * POOL
K = 10


def features_of(rows: int, dim: int, seed: int) -> NDArray[np.float16]:
    """Random features [rows, dim]; what they say does not matter for the time."""
    random = np.random.default_rng(seed)
    return random.standard_normal((rows, dim), dtype=np.float32).astype(np.float16)


def load(db: Database, name: str, packed: NDArray[np.uint8], dim: int) -> None:
    """Store codes with features, a part at a time so that they need not all be in memory."""
    for start in range(0, len(packed), BATCH):
        part = packed[start : start + BATCH]
        paths = [f"images/{row:09d}.jpg" for row in range(start, start + len(part))]
        features = features_of(len(part), dim, seed=start)
        items = CodeSet(part, BITS, paths, features=features, encoder=name, fingerprint=name)
        if start == 0:
            db.load(items)
            writer = Writer(db.connection, db.encoder(name))
        else:
            writer.write(items)
    db.tune(name)
    db.connection.execute("VACUUM (ANALYZE) images")
    db.connection.execute("VACUUM (ANALYZE) image_features")


def storage(db: Database) -> dict[str, Any]:
    """How features are stored, and how much of them lies out of line."""
    row = db.connection.execute(
        "SELECT attstorage::text, pg_relation_size(attrelid), pg_relation_size(reltoastrelid)"
        " FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid"
        " WHERE attrelid = 'image_features'::regclass AND attname = 'feature'"
    ).fetchone()
    assert row is not None
    names = {"m": "MAIN", "x": "EXTENDED", "e": "EXTERNAL", "p": "PLAIN"}
    return {"storage": names[row[0]], "bytes": row[1], "bytes_out_of_line": row[2]}


def timed(work: Any) -> tuple[float, Any]:
    """Milliseconds, and what came of it."""
    started = time.perf_counter()
    result = work()
    return (time.perf_counter() - started) * 1000, result


def percentiles(values: list[float]) -> dict[str, float]:
    return {
        "median": round(float(np.median(values)), 2),
        "p95": round(float(np.percentile(values, 95)), 2),
    }


def measure(db: Database, name: str, asked: NDArray[np.uint8], dim: int) -> dict[str, Any]:
    """Milliseconds of both stages for each query, interleaved."""
    features = features_of(len(asked), dim, seed=10**9).astype(np.float32)
    coarse: list[float] = []
    both: list[float] = []
    pools: list[int] = []
    for round_ in range(2):
        for code, feature in zip(asked, features, strict=True):
            query = Query(codes.words_of(code, BITS), feature)
            took_coarse, _ = timed(
                lambda query=query: db.search(query, encoder=name, k=POOL, stage="coarse")
            )
            took_both, found = timed(
                lambda query=query: db.search(query, encoder=name, k=K, pool=POOL, stage="fine")
            )
            # The first round fills the caches.
            if round_:
                coarse.append(took_coarse)
                both.append(took_both)
                pools.append(found.pool_size)
    whole, _ = timed(
        lambda: db.search_batch(asked, features=features, encoder=name, k=K, pool=POOL)
    )
    usual = [row for row, size in enumerate(pools) if size <= TOO_LARGE]
    grown = [row for row, size in enumerate(pools) if size > TOO_LARGE]
    beyond = [both[row] - coarse[row] for row in usual]
    return {
        "queries": len(asked),
        "coarse_ms": percentiles([coarse[row] for row in usual]),
        "both_stages_ms": percentiles([both[row] for row in usual]),
        "fine_stage_ms": percentiles(beyond),
        "pool_size_median": int(np.median(pools)),
        "batch_ms_per_query": round(whole / len(asked), 2),
        "pools_beyond_400": {
            "queries": len(grown),
            **(
                {
                    "pool_size_median": int(np.median([pools[row] for row in grown])),
                    "fine_stage_ms": percentiles([both[row] - coarse[row] for row in grown]),
                }
                if grown
                else {}
            ),
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--dim", type=int, nargs="*", default=[512, 1280])
    parser.add_argument("--loaded", metavar="URL", help="The server where --keep left the rows.")
    parser.add_argument("--keep", action="store_true", help="Leave the rows there.")
    options = parser.parse_args()
    figures: dict[str, Any] = {"rows": options.rows, "bits": BITS, "pool": POOL, "k": K}
    packed, asked = workloads.clustered(options.rows, options.queries)
    for dim in options.dim:
        with ExitStack() as stack:
            if options.loaded:
                url = make_conninfo(options.loaded, dbname=f"bench_fine_{dim}")
                db = stack.enter_context(connect(url))
            else:
                place = databases.fresh(options.database, f"bench_fine_{dim}", keep=options.keep)
                db = stack.enter_context(place)
                load(db, NAME, packed, dim)
            db.connection.execute("SET max_parallel_workers_per_gather = 0")
            figures[f"dim_{dim}"] = measure(db, NAME, asked, dim) | {"table": storage(db)}
            print(dim, figures[f"dim_{dim}"], flush=True)
    if options.dim:
        study.write("fine", study.command(), figures)


if __name__ == "__main__":
    main()
