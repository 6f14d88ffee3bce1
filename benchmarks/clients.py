"""Queries per second with 1, 2 and 8 clients: ours, the parallel scan, pgvector's HNSW.

    python -m benchmarks.clients [--rows 1000000]
    python -m benchmarks.clients --rows 10000000 --loaded

Each client is a process with a connection of its own that asks one query after the other.
`--loaded` searches what `python -m benchmarks.building` left; otherwise the codes, and HNSW's
index, go into a database of their own.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from statistics import median
from typing import Any

from benchmarks import building, databases, peers, study, workloads
from benchmarks.peers import Code, Packed, Peer, Question
from benchmarks.timing import ratio
from retrieval_db import connect
from retrieval_db.client import Database
from retrieval_db.console.screen import note

BITS = 128
NAME = building.NAME
TABLE = "bench_hnsw"
CLIENTS = (1, 2, 8)
OURS, SCAN = "retrieval-db", "scan, parallel"


def make(kind: str, url: str, encoder_id: int) -> Peer:
    """A peer with a connection of its own, from its name; for HNSW that is the setting."""
    if kind == OURS:
        return peers.Ours(peers.warm_connection(url), NAME)
    if kind == SCAN:
        connection = peers.warm_connection(url, parallel=True)
        return peers.Scan(connection, encoder_id, name=SCAN)
    return peers.Pgvector(peers.warm_connection(url), TABLE, BITS, int(kind.rpartition(" ")[2]))


def client(
    kind: str, url: str, encoder_id: int, asked: Packed, k: int, seconds: float, start: Any
) -> float:
    """Ask until the time is over; queries per second."""
    peer = make(kind, url, encoder_id)
    question = Question(k=k)
    queries = Code.all(asked, BITS)
    for code in queries[: 3 if kind == SCAN else 20]:
        peer.ask(code, question)
    start.wait()
    done = 0
    started = time.perf_counter()
    while time.perf_counter() - started < seconds:
        peer.ask(queries[done % len(queries)], question)
        done += 1
    return done / (time.perf_counter() - started)


def rate(kind: str, clients: int, given: argparse.Namespace, db: Database, asked: Packed) -> float:
    """Queries per second of so many clients together."""
    context = multiprocessing.get_context("spawn")
    with context.Manager() as manager, context.Pool(clients) as pool:
        start = manager.Barrier(clients)
        encoder = db.encoder(NAME).id
        shared = (kind, db.target.url, encoder)
        # Each has queries of its own.
        jobs = [
            (*shared, asked[number::clients], given.k, given.seconds, start)
            for number in range(clients)
        ]
        return sum(pool.starmap(client, jobs, chunksize=1))


@contextmanager
def database(given: argparse.Namespace, packed: Packed) -> Iterator[Database]:
    """The database with the codes in it."""
    if given.loaded:
        with connect(given.database, report=note) as db:
            databases.check_loaded(db, NAME, packed, BITS)
            if given.ef and not databases.check_pgvector(db.connection, TABLE, packed):
                sys.exit(f"There is no table {TABLE}: --ef without a number leaves HNSW out.")
            yield db
        return
    with databases.fresh(given.database, "bench_clients") as db:
        databases.load(db, NAME, packed, BITS)
        if given.ef:
            building.hnsw(db, packed)
        yield db


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("-k", type=int, default=10)
    parser.add_argument("--seconds", type=float, default=5, help="of each measurement")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--ef", type=int, nargs="*", default=[40, 400], help="of HNSW")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loaded", action="store_true", help="what benchmarks.building left")
    parser.add_argument("--database")
    given = parser.parse_args()
    packed, asked = workloads.clustered(given.rows, given.queries, BITS, given.seed)
    kinds = [OURS, SCAN, *(f"pgvector HNSW, ef {ef}" for ef in given.ef)]
    measured: dict[tuple[str, int], list[float]] = {}
    with database(given, packed) as db:
        for _ in range(given.repeat):
            for clients in CLIENTS:
                for kind in kinds:
                    found = rate(kind, clients, given, db, asked)
                    measured.setdefault((kind, clients), []).append(found)
                    note(f"{kind}, {clients} clients: {found:.1f} queries a second")
    figures: dict[str, Any] = {
        "rows": given.rows,
        "bits": BITS,
        "k": given.k,
        "seed": given.seed,
        "queries_per_second": {
            kind: {
                f"{clients}_clients": round(median(measured[kind, clients]), 2)
                for clients in CLIENTS
            }
            for kind in kinds
        },
    }
    rates = figures["queries_per_second"]
    figures["ours_over_peer"] = {
        kind: {key: ratio(rates[OURS][key], rates[kind][key]) for key in rates[kind]}
        for kind in kinds[1:]
    }
    print(figures)
    study.write(f"clients-{given.rows}", study.command(), figures)


if __name__ == "__main__":
    main()
