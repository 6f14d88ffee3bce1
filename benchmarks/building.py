"""From raw codes to a searchable table, beside pgvector's HNSW; all cores for both.

    python -m benchmarks.building --rows 10000000 [--database URL] [--seed 0] [--no-hnsw]

Ours is `Database.load`: COPY into `images` with its primary and unique keys, bucket indexes,
vacuum. pgvector's is COPY into a table of (id, code bit(128)) without any key, CREATE INDEX USING
hnsw with its default m and ef_construction and memory for the whole graph, vacuum. Both tables
stay, for `python -m benchmarks.search … --loaded`. Ten million rows of HNSW take more than half an
hour.
"""

from __future__ import annotations

import argparse
import resource
import struct
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from benchmarks import study, workloads
from retrieval_db import CodeSet, connect
from retrieval_db.client import Database
from retrieval_db.console.screen import note

BITS = 128
NAME = "bench-clustered"
BLOCK = 100_000
# The graph of ten million rows does not fit into less, and a build that spills is far slower.
HNSW_MEMORY = "8GB"

SIZES = """
SELECT coalesce(sum(pg_relation_size(oid)) FILTER (WHERE relname ~ '^images_bucket_'), 0),
       coalesce(sum(pg_relation_size(oid)) FILTER (WHERE relname ~ '^images_.*key$'), 0),
       coalesce(sum(pg_relation_size(oid)) FILTER (WHERE relname = 'bench_hnsw_idx'), 0)
FROM pg_class
"""


def ours(db: Database, packed: NDArray[np.uint8]) -> dict[str, Any]:
    """Load the codes under an encoder of their own: rows, keys, bucket indexes, vacuum."""
    if NAME in {encoder.name for encoder in db.encoders()}:
        db.remove_encoder(NAME)
        db.connection.execute("VACUUM FULL images")
    paths = [f"images/{row:09d}.jpg" for row in range(len(packed))]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    marks: list[tuple[int, float]] = []
    started = time.perf_counter()
    done = 0

    def progress(rows: int) -> None:
        nonlocal done
        done += rows
        marks.append((done, time.perf_counter() - started))

    report = db.load(
        CodeSet(packed, BITS, paths, encoder=NAME, fingerprint=NAME), progress=progress
    )
    return {
        "seconds": round(report.seconds, 1),
        "copy_seconds": round(marks[-1][1], 1),
        "rows_per_second_of_copy": round(len(packed) / marks[-1][1]),
        "client_memory_mib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
        "client_memory_before_mib": round(before / 1024),
    }


def copy_vectors(db: Database, packed: NDArray[np.uint8]) -> None:
    """Load the codes into a table of pgvector's, without an index."""
    run = db.connection.execute
    run("CREATE EXTENSION IF NOT EXISTS vector")
    run("DROP TABLE IF EXISTS bench_hnsw")
    size = packed.shape[1]
    run(sql.SQL("CREATE TABLE bench_hnsw (id bigint, code bit({}))").format(8 * size))
    head = np.frombuffer(struct.pack(">hi", 2, 8), np.uint8)
    length = np.frombuffer(struct.pack(">ii", 4 + size, 8 * size), np.uint8)
    with (
        db.connection.cursor() as cursor,
        cursor.copy("COPY bench_hnsw (id, code) FROM STDIN (FORMAT binary)") as copy,
    ):
        copy.write(b"PGCOPY\n\xff\r\n\0" + bytes(8))
        for start in range(0, len(packed), BLOCK):
            block = packed[start : start + BLOCK]
            ids = np.arange(start + 1, start + len(block) + 1).astype(">i8")
            rows = np.concatenate(
                [
                    np.broadcast_to(head, (len(block), len(head))),
                    ids.view(np.uint8).reshape(-1, 8),
                    np.broadcast_to(length, (len(block), len(length))),
                    block,
                ],
                axis=1,
            )
            copy.write(rows.tobytes())
        copy.write(b"\xff\xff")


def hnsw(db: Database, packed: NDArray[np.uint8]) -> dict[str, Any]:
    """Load the codes into a table of pgvector's, and build its index."""
    run = db.connection.execute
    started = time.perf_counter()
    copy_vectors(db, packed)
    copied = time.perf_counter() - started
    run(f"SET maintenance_work_mem = '{HNSW_MEMORY}'")
    run("CREATE INDEX bench_hnsw_idx ON bench_hnsw USING hnsw (code bit_hamming_ops)")
    run("RESET maintenance_work_mem")
    run("VACUUM (ANALYZE) bench_hnsw")
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "copy_seconds": round(copied, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-hnsw", action="store_true", help="only ours")
    parser.add_argument("--database")
    given = parser.parse_args()
    packed, _ = workloads.clustered(given.rows, 1, seed=given.seed)
    with connect(given.database, report=note) as db:
        figures: dict[str, Any] = {"rows": given.rows, "seed": given.seed}
        figures["ours"] = ours(db, packed)
        print(figures["ours"], flush=True)
        if not given.no_hnsw:
            figures["hnsw"] = hnsw(db, packed)
            figures["hnsw_over_ours"] = round(
                figures["hnsw"]["seconds"] / figures["ours"]["seconds"], 2
            )
        sizes = db.connection.execute(SIZES).fetchone()
        assert sizes is not None
        for what, size in zip(("buckets", "primary_and_unique_keys", "hnsw"), sizes, strict=True):
            figures[f"bytes_per_row_{what}"] = round(int(size) / given.rows, 1)
    print(figures)
    study.write(
        f"building-{given.rows}", f"python -m benchmarks.building --rows {given.rows}", figures
    )


if __name__ == "__main__":
    main()
