"""How search grows with the table: clustered codes, from a thousand rows on.

    python -m benchmarks.growth [--rows 1000 10000 100000 1000000 10000000 30000000]

Each size is a database of its own, loaded from nothing, and has a file of its own. Ours and the
scan take turns on one core, a fifth of the queries at a time; slow scans get fewer of them. Before
each question ours gets as many other queries with the widest one, as in `benchmarks.search`. 30
million rows need about 20 GB of disk.
"""

from __future__ import annotations

import argparse
from typing import Any

from benchmarks import databases, peers, study, workloads
from benchmarks.peers import Code, Question
from benchmarks.timing import Times, in_rounds, ratio, timed
from retrieval_db.client import Database
from retrieval_db.console.screen import note

NAME = "bench-growth"
WIDEST = Question(k=100)
QUESTIONS = (Question(k=1), Question(k=10), WIDEST, Question(radius=7))
SCAN_SECONDS = 30.0
LEAST = 10


def ask(db: Database, asked: list[Code], others: list[Code], question: Question) -> dict[str, Any]:
    """One question for every query: ours, and the scan for as many as its time allows.

    `others` are asked first, so that the server's cache holds what one in use would have there.
    """
    url = db.target.url
    ours = peers.Ours(peers.warm_connection(url), NAME)
    scan = peers.Scan(peers.warm_connection(url), db.encoder(NAME).id)
    for code in others:
        ours.ask(code, WIDEST)
    elapsed = min(timed(scan.ask, code, question)[0] for code in asked[:2])
    sample = min(len(asked), max(LEAST, round(SCAN_SECONDS * 1000 / elapsed)))
    times, scans = Times(), Times()
    answers, true = {}, {}
    for mine, plain in zip(
        in_rounds(len(asked), len(asked)), in_rounds(len(asked), sample), strict=True
    ):
        for number in mine:
            answers[number] = times.take(ours.ask, asked[number], question, clock=ours.clock)
        for number in plain:
            true[number] = scans.take(scan.ask, asked[number], question, clock=scan.clock)
    figures: dict[str, Any] = {
        "k": question.k,
        "radius": question.radius,
        "ours": times.figures(),
        "scan": scans.figures(),
        "answers_unlike_the_scan": sum(answers[number] != rows for number, rows in true.items()),
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
    for rows in given.rows:
        drawn = workloads.draw("clustered", rows, 2 * given.queries, given.seed)
        workload, warming = drawn.halves()
        asked, others = (Code.all(each.asked, each.bits) for each in (workload, warming))
        figures: dict[str, Any] = {
            "rows": rows,
            "bits": workload.bits,
            "queries": given.queries,
            "seed": given.seed,
        }
        with databases.fresh(given.database, "bench_growth") as db:
            figures |= databases.load(db, NAME, workload.packed, workload.bits)
            figures["questions"] = [ask(db, asked, others, question) for question in QUESTIONS]
        for found in figures["questions"]:
            note(f"{rows} rows: {found}")
        study.write(f"growth-{rows}", study.command(), figures)


if __name__ == "__main__":
    main()
