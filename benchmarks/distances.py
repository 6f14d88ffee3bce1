"""Why hash codes: Hamming distance against Euclidean distance over 4,096 floats.

    python -m benchmarks.distances [--database URL] [--rows 100000 1000000] [--float-rows 100000]
                                   [--stored-rows 100000]

The comparison of Lin et al. (2015), who ranked 4,096-dimensional features: per comparison and for
a whole query (the ten nearest), in NumPy and in PostgreSQL, on one core. Above `--float-rows` the
floats of NumPy are one block of that many rows gone through as often as it takes: they do not fit
into the memory of small machines, and a scan reads each float once either way. In PostgreSQL 4,096
floats exceed a page and lie out of line; up to `--stored-rows` are stored (a million of them take
17 GB, and as half-floats 9 GB: more than the memory of small machines, so those times would be the
disk's).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from typing import Any, LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray
from psycopg.conninfo import make_conninfo

from benchmarks import databases, study
from retrieval_db import CodeSet, codes, connect
from retrieval_db.client import Database
from retrieval_db.loading import copy_format

DIMENSIONS = 4096
K = 10
REPEAT = 5
BLOCK = 2_000

# How the floats are stored.
KINDS = ("vector", "halfvec")

SCAN: LiteralString = """
SELECT id FROM images WHERE encoder_id = %s
ORDER BY hamming_distance(code_1, code_2, code_3, code_4, %s, %s, %s, %s), id LIMIT 10
"""
SCAN_FLOATS: LiteralString = "SELECT id FROM {} ORDER BY feature <-> %s::{}, id LIMIT 10"
DATABASE = "bench_distances"


def best(work: Callable[[], Any], repeat: int = REPEAT) -> float:
    """Seconds of the fastest of some runs, after one that warms up."""
    work()
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        work()
        times.append(time.perf_counter() - started)
    return min(times)


def nearest(distances: NDArray[Any]) -> NDArray[np.intp]:
    """The ten nearest, ties by row."""
    few = np.argpartition(distances, K)[:K]
    return few[np.lexsort((few, distances[few]))]


def figures_of(seconds: float, rows: int) -> dict[str, float]:
    return {
        "query_ms": round(seconds * 1000, 3),
        "nanoseconds_per_comparison": round(seconds / rows * 1e9, 2),
    }


def hamming_in_numpy(rows: int, bits: int) -> dict[str, float]:
    """XOR and popcount over 64-bit words."""
    random = np.random.default_rng(0)
    shape = (bits // 64, rows)
    words = random.integers(0, 1 << 63, shape, dtype=np.uint64)
    query = words[:, 7].copy()

    def ask() -> NDArray[np.intp]:
        distances = np.zeros(rows, dtype=np.uint8)
        for column, word in zip(words, query, strict=True):
            distances += np.bitwise_count(column ^ word)
        return nearest(distances)

    return figures_of(best(ask), rows)


def euclidean_in_numpy(rows: int, at_once: int) -> dict[str, float]:
    """Squared differences in float32, in blocks that stay in the cache."""
    random = np.random.default_rng(0)
    held = random.standard_normal((min(rows, at_once), DIMENSIONS), dtype=np.float32)
    query = held[7].copy()
    passes = rows // len(held)

    def ask() -> NDArray[np.intp]:
        distances = np.empty(rows, dtype=np.float32)
        at = 0
        for _ in range(passes):
            for start in range(0, len(held), BLOCK // 40):
                part = held[start : start + BLOCK // 40] - query
                distances[at : at + len(part)] = np.einsum("nd,nd->n", part, part)
                at += len(part)
        return nearest(distances)

    return figures_of(best(ask, repeat=3), rows)


def by_product_in_numpy(rows: int, at_once: int) -> dict[str, float]:
    """The same distances by one matrix product, ‖x‖² known beforehand: what a library does."""
    random = np.random.default_rng(0)
    held = random.standard_normal((min(rows, at_once), DIMENSIONS), dtype=np.float32)
    query = held[7].copy()
    squares = np.einsum("nd,nd->n", held, held)
    passes = rows // len(held)

    def ask() -> NDArray[np.intp]:
        parts = [squares - 2 * (held @ query) for _ in range(passes)]
        return nearest(np.concatenate(parts))

    return figures_of(best(ask, repeat=3), rows)


def hamming_in_postgresql(db: Database, rows: int, bits: int) -> dict[str, Any]:
    """The inlined function over all rows, and the search through buckets."""
    name = f"benchmark-distances-{bits}"
    packed = np.random.default_rng(0).integers(0, 256, (rows, bits // 8), dtype=np.uint8)
    paths = [f"{row:08d}.jpg" for row in range(rows)]
    db.load(CodeSet(packed, bits, paths, encoder=name, fingerprint=name))
    words = codes.words_of(packed[7], bits)
    values = [db.encoder(name).id, *words]
    scan = best(lambda: db.connection.execute(SCAN, values).fetchall())
    search = best(lambda: db.search(packed[7], encoder=name, k=K))
    db.remove_encoder(name)
    db.connection.execute("VACUUM images")
    return figures_of(scan, rows) | {"search_codes_ms": round(search * 1000, 3)}


def loaded_floats(db: Database, kind: str, rows: int) -> str:
    """The name of a table of random floats, made if it is not there."""
    table = f"benchmark_{kind}_{rows}"
    connection = db.connection
    if connection.execute("SELECT to_regclass(%s)", [table]).fetchone() != (None,):
        return table
    connection.execute(f"CREATE UNLOGGED TABLE {table} (id bigint, feature {kind})".encode())
    random = np.random.default_rng(0)
    column = _vectors if kind == "vector" else copy_format.half_vectors
    for start in range(0, rows, BLOCK):
        features = random.standard_normal((BLOCK, DIMENSIONS), dtype=np.float32)
        keys = copy_format.integers(np.arange(start, start + BLOCK), 8)
        _copy(connection, table, [keys, column(features)])
    connection.execute(f"VACUUM (ANALYZE) {table}".encode())
    return table


def euclidean_in_postgresql(db: Database, rows: int) -> dict[str, Any]:
    """pgvector's distance over all rows, as floats and as half-floats."""
    query = np.random.default_rng(1).standard_normal(DIMENSIONS, dtype=np.float32)
    text = "[" + ",".join(map(repr, query.tolist())) + "]"
    found: dict[str, Any] = {}
    for kind in KINDS:
        table = loaded_floats(db, kind, rows)
        statement = SCAN_FLOATS.format(table, kind)
        took = best(partial(_answered, db, statement, text), repeat=3)
        size = db.connection.execute(
            "SELECT pg_total_relation_size(%s::regclass)", [table]
        ).fetchone()
        found[kind] = figures_of(took, rows) | {"bytes": size[0] if size else None}
        print("PostgreSQL", rows, kind, found[kind], flush=True)
        db.connection.execute(f"DROP TABLE {table}".encode())
    return found


def _answered(db: Database, statement: LiteralString, text: str) -> list[Any]:
    return db.connection.execute(statement, [text]).fetchall()


def _vectors(features: NDArray[np.float32]) -> copy_format.Column:
    """A column of pgvector's `vector`: int16 dimensions, int16 zero, then the floats."""
    rows = np.zeros((len(features), 4 + 4 * DIMENSIONS), dtype=np.uint8)
    rows[:, :2] = np.frombuffer(DIMENSIONS.to_bytes(2, "big"), dtype=np.uint8)
    rows[:, 4:] = features.astype(">f4").view(np.uint8)
    return copy_format.fixed(rows, rows.shape[1])


def _copy(
    connection: psycopg.Connection[Any], table: str, columns: list[copy_format.Column]
) -> None:
    with (
        connection.cursor() as cursor,
        cursor.copy(f"COPY {table} FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        copy.write(copy_format.SIGNATURE + copy_format.rows(columns) + copy_format.TRAILER)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--rows", type=int, nargs="*", default=[100_000, 1_000_000])
    parser.add_argument("--float-rows", type=int, default=100_000)
    parser.add_argument("--stored-rows", type=int, default=100_000)
    parser.add_argument("--loaded", metavar="URL", help="The server where the floats are already.")
    options = parser.parse_args()
    numpy_figures: dict[str, Any] = {}
    server: dict[str, Any] = {}
    for rows in options.rows:
        numpy_figures[str(rows)] = {
            "hamming_64": hamming_in_numpy(rows, 64),
            "hamming_128": hamming_in_numpy(rows, 128),
            "euclidean_4096": euclidean_in_numpy(rows, options.float_rows),
            "euclidean_4096_by_product": by_product_in_numpy(rows, options.float_rows),
        }
        print("NumPy", rows, numpy_figures[str(rows)], flush=True)
    with ExitStack() as stack:
        if options.loaded:
            url = make_conninfo(options.loaded, dbname=DATABASE)
            db = stack.enter_context(connect(url))
        else:
            db = stack.enter_context(databases.fresh(options.database, DATABASE))
        db.connection.execute("SET max_parallel_workers_per_gather = 0")
        for rows in options.rows:
            found: dict[str, Any] = {
                f"hamming_{bits}": hamming_in_postgresql(db, rows, bits) for bits in (64, 128)
            }
            print("PostgreSQL", rows, found, flush=True)
            if rows <= options.stored_rows:
                found["euclidean_4096"] = euclidean_in_postgresql(db, rows)
            server[str(rows)] = found
    figures = {
        "dimensions": DIMENSIONS,
        "k": K,
        "in_numpy": numpy_figures,
        "in_postgresql": server,
    }
    study.write("distances", study.command(), figures)


if __name__ == "__main__":
    main()
