"""Exact search through bucket indexes against a scan and against FAISS, in one run.

    python -m benchmarks.search clustered --rows 1000000 [--database URL] [--queries 300]
    python -m benchmarks.search flipped128 | flipped256 | sun397

Every time is a whole client call over a warm connection on one core (no parallel workers);
beside it stands the processor time of the server's backend, where the system tells it. The scan is
the best plain statement: the inlined function, ordered and limited; the planner chooses what it
reads. Peers run interleaved with ours, so that the ratios stand on a noisy machine, too.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, LiteralString

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import study, workloads
from retrieval_db import CodeSet, codes, connect
from retrieval_db.client import Database
from retrieval_db.console.screen import note

SCAN = """
SELECT id, hamming_distance(code_1, code_2, code_3, code_4, %s, %s, %s, %s) AS distance
FROM images WHERE encoder_id = %s ORDER BY distance, id LIMIT %s
"""
SCAN_RADIUS = """
SELECT id, hamming_distance(code_1, code_2, code_3, code_4, %s, %s, %s, %s) AS distance
FROM images WHERE encoder_id = %s
AND hamming_distance(code_1, code_2, code_3, code_4, %s, %s, %s, %s) <= %s ORDER BY distance, id
"""
SEARCH = "SELECT * FROM search_codes(%s, %s, %s, %s, %s, %s, %s)"

# What is asked of each workload: k and radius.
ASKED: dict[str, list[tuple[int | None, int | None]]] = {
    "clustered": [(1, None), (10, None), (100, None)],
    "flipped128": [(None, 7)],
    "flipped256": [(None, 31)],
    "sun397": [(20, None)],
}


def prepare(name: str, rows: int, queries: int, seed: int) -> tuple[Any, Any, int]:
    """Codes, queries and the code length of a workload."""
    if name == "clustered":
        return *workloads.clustered(rows, queries, seed=seed), 128
    if name == "sun397":
        packed, chosen = workloads.sun397(queries, seed)
        return packed, packed[chosen], 128
    bits, most = (128, 12) if name == "flipped128" else (256, 31)
    return *workloads.flipped(rows, queries, bits, most, seed), bits


def load(db: Database, name: str, packed: NDArray[np.uint8], bits: int) -> dict[str, Any]:
    """Load the codes under their own encoder, from nothing to searchable."""
    if name in {encoder.name for encoder in db.encoders()}:
        db.remove_encoder(name)
        db.connection.execute("VACUUM images")
    paths = [f"images/{row:09d}.jpg" for row in range(len(packed))]
    report = db.load(CodeSet(packed, bits, paths, encoder=name, fingerprint=name))
    buckets = db.connection.execute(
        "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ ("
        " SELECT '^images_bucket_' || id || '_' FROM layouts"
        " WHERE active AND encoder_id = %s)",
        [db.encoder(name).id],
    ).fetchone()
    size = int(buckets[0] or 0) if buckets else 0
    return {
        "load_index_vacuum_seconds": round(report.seconds, 1),
        "bucket_index_bytes_per_row": round(size / len(packed), 1),
    }


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Milliseconds of one call, and what it returned."""
    started = time.perf_counter()
    value = call(*given)
    return (time.perf_counter() - started) * 1000, value


def processor_milliseconds(pid: int) -> float:
    """Processor time that a local process has had; 0 where the system does not tell.

    On a machine shared with others it says more than wall time: waiting does not count.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return 0.0


def percentiles(times: list[float]) -> dict[str, float]:
    """p50, p95 and p99, in milliseconds."""
    return {f"p{p}": round(float(np.percentile(times, p)), 3) for p in (50, 95, 99)}


def compare(
    db: Database, name: str, packed: Any, asked: Any, bits: int, k: int | None, radius: int | None
) -> dict[str, Any]:
    """Times of one question for every query: ours, the scan (a sample), FAISS."""
    flat = faiss.IndexBinaryFlat(bits)
    flat.add(packed)
    faiss.omp_set_num_threads(1)
    encoder = db.encoder(name)
    ours: list[float] = []
    scans: list[float] = []
    faiss_times: list[float] = []
    wrong = 0

    def ask(statement: LiteralString, values: list[Any]) -> list[Any]:
        return db.connection.execute(statement, values).fetchall()

    ours_cpu: list[float] = []
    scans_cpu: list[float] = []
    pid = db.connection.info.backend_pid
    every = max(1, len(asked) // 15)
    for number, query in enumerate(asked):
        words = codes.words_of(query, bits)
        before = processor_milliseconds(pid)
        elapsed, rows = timed(ask, SEARCH, [name, *words, k, radius])
        ours.append(elapsed)
        ours_cpu.append(processor_milliseconds(pid) - before)
        if number % every == 0:
            before = processor_milliseconds(pid)
            if radius is None:
                given: list[Any] = [*words, encoder.id, k]
                elapsed, best = timed(ask, SCAN, given)
            else:
                given = [*words, encoder.id, *words, radius]
                elapsed, best = timed(ask, SCAN_RADIUS, given)
            scans.append(elapsed)
            scans_cpu.append(processor_milliseconds(pid) - before)
            wrong += [(row[1], row[4]) for row in rows] != best
        if k is not None:
            faiss_times.append(timed(flat.search, query[None, :], k)[0])
        else:
            faiss_times.append(timed(flat.range_search, query[None, :], (radius or 0) + 1)[0])
    figures: dict[str, Any] = {
        "k": k,
        "radius": radius,
        "milliseconds": percentiles(ours),
        "scan_milliseconds": percentiles(scans),
        "faiss_flat_milliseconds": percentiles(faiss_times),
        "processor_milliseconds": percentiles(ours_cpu),
        "scan_processor_milliseconds": percentiles(scans_cpu),
        "scan_queries": len(scans),
        "answers_unlike_the_scan": wrong,
    }
    mine = figures["milliseconds"]
    figures["times_faster_than_scan_p50"] = round(figures["scan_milliseconds"]["p50"] / mine["p50"])
    cpu = figures["processor_milliseconds"]["p50"]
    if cpu:
        figures["times_less_processor_time_than_scan_p50"] = round(
            figures["scan_processor_milliseconds"]["p50"] / cpu
        )
        figures["processor_p95_over_p50"] = round(figures["processor_milliseconds"]["p95"] / cpu, 2)
    figures["p95_over_p50"] = round(mine["p95"] / mine["p50"], 2)
    figures["faiss_over_ours_p50"] = round(
        figures["faiss_flat_milliseconds"]["p50"] / mine["p50"], 2
    )
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("workload", choices=ASKED)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    given = parser.parse_args()
    packed, asked, bits = prepare(given.workload, given.rows, given.queries, given.seed)
    with connect(given.database, report=note) as db:
        figures: dict[str, Any] = {
            "workload": given.workload,
            "rows": len(packed),
            "bits": bits,
            "queries": len(asked),
            "seed": given.seed,
            **load(db, f"bench-{given.workload}", packed, bits),
        }
        db.connection.execute("SET max_parallel_workers_per_gather = 0")
        questions = []
        for k, radius in ASKED[given.workload]:
            for query in asked[:20]:
                words = codes.words_of(query, bits)
                db.connection.execute(SEARCH, [f"bench-{given.workload}", *words, k, radius])
            found = compare(db, f"bench-{given.workload}", packed, asked, bits, k, radius)
            print(found)
            questions.append(found)
    figures["questions"] = questions
    command = f"python -m benchmarks.search {given.workload} --rows {given.rows}"
    study.write(f"search-{given.workload}-{len(packed)}", command, figures)


if __name__ == "__main__":
    main()
