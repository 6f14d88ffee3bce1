"""How search grows with the table: clustered codes, from a thousand rows on.

    python -m benchmarks.growth [--rows 1000 10000 100000 1000000 10000000 30000000]

Each size is a database of its own, loaded from nothing. Ours and the scan take turns on one core;
slow scans get fewer of the queries. 30 million rows need about 20 GB of disk.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from benchmarks import databases, peers, study, workloads
from benchmarks.peers import Code, Question
from benchmarks.timing import Times, ratio
from retrieval_db.client import Database
from retrieval_db.console.screen import note

NAME = "bench-growth"
BITS = 128
QUESTIONS = (Question(k=1), Question(k=10), Question(k=100), Question(radius=7))
SCAN_SECONDS = 30.0
LEAST = 10


def ask(db: Database, asked: list[Code], question: Question) -> dict[str, Any]:
    """One question for every query: ours, and the scan for as many as its time allows."""
    url = db.target.url
    ours = peers.Ours(peers.warm_connection(url), NAME)
    scan = peers.Scan(peers.warm_connection(url), db.encoder(NAME).id)
    for code in asked[:20]:
        ours.ask(code, question)
    scan.ask(asked[0], question)
    times, scans = Times(), Times()
    wrong = 0
    started = time.perf_counter()
    for code in asked:
        found = times.take(ours.ask, code, question, clock=ours.clock)
        if len(scans) < LEAST or time.perf_counter() - started < SCAN_SECONDS:
            wrong += found != scans.take(scan.ask, code, question, clock=scan.clock)
    figures: dict[str, Any] = {
        "k": question.k,
        "radius": question.radius,
        "ours": times.figures(),
        "scan": scans.figures(),
        "answers_unlike_the_scan": wrong,
    }
    for kind in ("milliseconds", "processor_milliseconds"):
        if kind in figures["ours"]:
            figures[f"scan_over_ours_{kind}"] = {
                p: ratio(figures["scan"][kind][p], figures["ours"][kind][p]) for p in ("p50", "p95")
            }
    ours.connection.close()
    scan.connection.close()
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    sizes = [1_000, 10_000, 100_000, 1_000_000]
    parser.add_argument("--rows", type=int, nargs="+", default=sizes)
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    given = parser.parse_args()
    figures: dict[str, Any] = {"bits": BITS, "queries": given.queries, "seed": given.seed}
    figures["sizes"] = []
    for rows in given.rows:
        packed, fresh = workloads.clustered(rows, given.queries, BITS, given.seed)
        with databases.fresh(given.database, "bench_growth") as db:
            size: dict[str, Any] = {"rows": rows, **databases.load(db, NAME, packed, BITS)}
            size["questions"] = [ask(db, Code.all(fresh, BITS), asked) for asked in QUESTIONS]
        figures["sizes"].append(size)
        for found in size["questions"]:
            note(f"{rows} rows: {found}")
    study.write("growth", study.command(), figures)


if __name__ == "__main__":
    main()
