"""Bucket indexes that hold the whole code, and compact ones: bytes a row and times.

    python -m benchmarks.layouts [--rows 1000000] [--bits 64 128 256]

The same clustered codes stand in two databases, one for each kind of layout; both and the scan take
turns on one core, a fifth of the queries at a time.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from typing import Any

from benchmarks import databases, peers, study, workloads
from benchmarks.databases import Packed
from benchmarks.peers import Code, Peer, Question
from benchmarks.timing import ROUNDS, Times, in_rounds, ratio
from retrieval_db.client import Database
from retrieval_db.console.screen import note

NAME = "bench-layouts"
QUESTIONS = (Question(k=1), Question(k=10), Question(k=100), Question(radius=7))
KINDS = ("covering", "compact")


def build(db: Database, kind: str, packed: Packed, bits: int) -> dict[str, Any]:
    """Load the codes and give them this kind of layout."""
    databases.load(db, NAME, packed, bits)
    report = db.tune(NAME, covering=kind == "covering")
    db.connection.execute("VACUUM (ANALYZE) images")
    return {
        "chunk_widths": " ".join(map(str, report.layout.widths)),
        "tune_seconds": round(report.seconds, 1),
        **databases.index_bytes(db, NAME, len(packed)),
    }


def ask(takers: dict[str, Peer], asked: list[Code], slow: int, question: Question) -> Any:
    """One question for every query in turns; the scan gets a sample."""
    times = {name: Times() for name in takers}
    for peer in takers.values():
        for code in asked[:20] if peer.name != "scan" else asked[:2]:
            peer.ask(code, question)
    parts = {
        name: in_rounds(len(asked), min(slow, len(asked)) if name == "scan" else len(asked))
        for name in takers
    }
    distances: dict[str, dict[int, list[int]]] = {name: {} for name in takers}
    for turn in range(ROUNDS):
        for name, peer in takers.items():
            for number in parts[name][turn]:
                rows = times[name].take(peer.ask, asked[number], question, clock=peer.clock)
                distances[name][number] = [distance for _, distance in rows]
    wrong = sum(
        found != distances[kind][number]
        for number, found in distances["scan"].items()
        for kind in KINDS
    )
    figures: dict[str, Any] = {"k": question.k, "radius": question.radius}
    figures |= {name: taken.figures() for name, taken in times.items()}
    for kind in KINDS:
        figures[f"scan_over_{kind}_p50"] = ratio(
            figures["scan"]["milliseconds"]["p50"], figures[kind]["milliseconds"]["p50"]
        )
    return figures | {"answers_unlike_the_scan": wrong}


def one_width(bits: int, given: argparse.Namespace) -> dict[str, Any]:
    """Both kinds of layout at a code length."""
    packed, fresh = workloads.clustered(given.rows, given.queries, bits, given.seed)
    figures: dict[str, Any] = {"bits": bits}
    takers: dict[str, Peer] = {}
    with ExitStack() as stack:
        for kind in KINDS:
            db = stack.enter_context(databases.fresh(given.database, f"bench_{kind}"))
            figures[kind] = build(db, kind, packed, bits)
            connection = stack.enter_context(peers.warm_connection(db.target.url))
            takers[kind] = peers.Ours(connection, NAME)
            if kind == "covering":
                own = stack.enter_context(peers.warm_connection(db.target.url))
                takers["scan"] = peers.Scan(own, db.encoder(NAME).id)
        asked = Code.all(fresh, bits)
        figures["questions"] = [ask(takers, asked, given.slow, each) for each in QUESTIONS]
    note(str(figures))
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--bits", type=int, nargs="+", default=[64, 128, 256])
    parser.add_argument("--queries", type=int, default=300)
    parser.add_argument("--slow", type=int, default=15, help="queries for the scan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    given = parser.parse_args()
    figures = {"rows": given.rows, "queries": given.queries, "seed": given.seed}
    widths = [one_width(bits, given) for bits in given.bits]
    study.write(f"layouts-{given.rows}", study.command(), {**figures, "widths": widths})


if __name__ == "__main__":
    main()
