"""Exact search beside everything a user would pick instead, in one run.

    python -m benchmarks.search clustered --rows 10000000 --loaded
    python -m benchmarks.search flipped128 --rows 10000000
    python -m benchmarks.search sun397 | ucf101

`--loaded` searches what `python -m benchmarks.building` left: the same seed gives the same codes,
and the queries are drawn after them. Otherwise the codes go into a database of their own, which is
dropped afterwards, and pgvector's HNSW is built there with `--hnsw`.

Times are whole calls of a client over a warm connection: before each question a peer gets as many
other queries as are asked, with the widest question of the workload, so that the server's cache
holds what one in use would have there. What our very first queries took is noted beside; a server
that has just been started holds no index yet. On one core unless a peer's name says parallel;
beside them stands the processor time of the server's backend. All peers take turns, in rounds of a
fifth of the queries, so that each has the processor's caches as it would have them alone, and the
machine's noise is shared; slow ones get a sample of the queries. Recall counts a row as found if it
is as near as the k-th of the true answer, which is FAISS IndexBinaryFlat's; our ids are held
against the scan's.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks import building, databases, peers, study, workloads
from benchmarks.peers import Code, Found, Peer, Question
from benchmarks.timing import ROUNDS, Times, in_rounds, percentiles, private_memory_mib, ratio
from benchmarks.workloads import Workload
from retrieval_db import connect
from retrieval_db.client import Database
from retrieval_db.console.screen import note

QUESTIONS: dict[str, list[Question]] = {
    "clustered": [Question(k=1), Question(k=10), Question(k=100)],
    "flipped128": [Question(radius=7)],
    "flipped256": [Question(radius=31)],
    "sun397": [Question(k=20)],
    "ucf101": [Question(k=10), Question(k=100)],
}
EFS = (40, 60, 100, 150, 200, 300, 400, 600, 800, 1000)
FLIPS = (0, 1, 2)
TABLE = "bench_hnsw"
FIRST = 100  # queries before any other
GROUPS = ("parallel", "pgvector", "hnsw", "faiss", "multihash", "duckdb")


@dataclass
class Contender:
    """A peer, how many of the queries it gets, and what came of them."""

    peer: Peer
    queries: int
    times: Times = field(default_factory=Times)
    recalls: list[float] = field(default_factory=list)

    def answer(self, code: Code, question: Question) -> Found:
        found: Found = self.times.take(self.peer.ask, code, question, clock=self.peer.clock)
        return found

    def figures(self) -> dict[str, Any]:
        return {
            "name": self.peer.name,
            **self.times.figures(),
            "recall": recalls(self.recalls),
        }


def recalls(values: Sequence[float]) -> dict[str, float]:
    """Mean over the queries, and the worst one."""
    return {"mean": round(float(np.mean(values)), 5), "worst": round(min(values), 4)}


class Study:
    """One workload in one database, with all its peers."""

    def __init__(
        self, db: Database, workload: Workload, others: Workload, given: argparse.Namespace
    ) -> None:
        self.db = db
        self.workload = workload
        self.warming = Code.all(others.asked, workload.bits)
        self.encoder = db.encoder(f"bench-{workload.name}")
        self.codes = Code.all(workload.asked, workload.bits)
        self.url = db.target.url
        self.flat = peers.FaissFlat(workload.packed)
        self.ours = peers.Ours(peers.warm_connection(self.url), self.encoder.name)
        self.scan = peers.Scan(peers.warm_connection(self.url), self.encoder.id)
        self.slow = min(given.slow, len(self.codes))
        self.own = self._own_ids()
        wanted = set(GROUPS) - set(given.without)
        self.has_vector = databases.check_pgvector(db.connection, TABLE, workload.packed)
        index = db.connection.execute("SELECT to_regclass(%s)", [f"{TABLE}_idx"]).fetchone()
        self.hnsw = "hnsw" in wanted and index is not None and index[0] is not None
        self.others = list(self._others(wanted))

    def _others(self, wanted: set[str]) -> Iterator[tuple[Peer, int]]:
        """The peers beside ours, the scan and HNSW, with the number of queries for each."""
        medium = max(self.slow, len(self.codes) // 10)
        if "parallel" in wanted:
            parallel = peers.warm_connection(self.url, parallel=True)
            yield peers.Scan(parallel, self.encoder.id, name="scan, parallel"), self.slow
        if self.has_vector and "pgvector" in wanted:
            one = peers.warm_connection(self.url)
            yield peers.Pgvector(one, TABLE, self.workload.bits), self.slow
        if "faiss" in wanted:
            yield self.flat, len(self.codes)
        if "multihash" in wanted:
            for peer in peers.FaissMultiHash.build(self.workload.packed, FLIPS):
                yield peer, medium
        if "duckdb" in wanted:
            yield peers.DuckDb(self.workload.packed), medium

    def _own_ids(self) -> dict[str, list[int]]:
        """The ids of the queries' own rows, by where the ids come from."""
        own = self.workload.own
        if own is None:
            return {}
        paths = [f"images/{row:09d}.jpg" for row in own]
        by_path: dict[str, int] = dict(
            self.db.connection.execute(
                "SELECT path, id FROM images WHERE encoder_id = %s AND path = ANY (%s)",
                [self.encoder.id, paths],
            ).fetchall()
        )
        return {
            "images": [by_path[path] for path in paths],
            "pgvector": (own + 1).tolist(),
            "rows": own.tolist(),
        }

    def asked(self, question: Question) -> Question:
        """One more, where the query's own row is among the answers."""
        if self.own and question.k is not None:
            return Question(k=question.k + 1)
        return question

    def without_own(self, peer: Peer, number: int, found: Found, question: Question) -> Found:
        """The answer without the query's own row."""
        if not self.own:
            return found
        images = isinstance(peer, (peers.Ours, peers.Scan))
        kind = "images" if images else "pgvector" if isinstance(peer, peers.Pgvector) else "rows"
        mine = self.own[kind][number]
        return [pair for pair in found if pair[0] != mine][: question.k]

    def true_answers(self, question: Question) -> list[Found]:
        """FAISS's, for every query."""
        wanted = self.asked(question)
        return [
            self.without_own(self.flat, number, self.flat.ask(code, wanted), question)
            for number, code in enumerate(self.codes)
        ]

    def first_queries(self) -> dict[str, Any]:
        """Ours, before any other query has filled the server's cache."""
        question = QUESTIONS[self.workload.name][0]
        first = Contender(self.ours, FIRST)
        for code in self.warming[:FIRST]:
            first.answer(code, self.asked(question))
        return {"k": question.k, "radius": question.radius, **first.times.figures()}

    def answer_all(self, question: Question) -> dict[str, Any]:
        """One question for all queries and peers."""
        true = self.true_answers(question)
        contenders = [
            Contender(self.ours, len(self.codes)),
            Contender(self.scan, self.slow),
            *(Contender(peer, queries) for peer, queries in self.others),
        ]
        figures: dict[str, Any] = {
            "k": question.k,
            "radius": question.radius,
            "rows_of_the_answer": percentiles([len(found) for found in true]),
            "distance_of_the_last": percentiles([found[-1][1] for found in true if found] or [0]),
        }
        if self.hnsw:
            ladder = self._ladder(question, true)
            figures["hnsw_settings"] = ladder
            whole = [step["ef"] for step in ladder if step["recall"]["worst"] == 1]
            figures["hnsw_first_ef_with_recall_1"] = whole[0] if whole else None
            for ef in sorted({100, whole[0] if whole else EFS[-1]}):
                contenders.append(Contender(self._hnsw(ef), len(self.codes)))
        widest = self.asked(QUESTIONS[self.workload.name][-1])
        for contender in contenders:
            for code in self.warming[: None if contender.queries == len(self.codes) else 2]:
                contender.peer.ask(code, widest)
        wrong = self._take_turns(contenders, question, true)
        figures["answers_unlike_the_scan"] = wrong
        figures["backend_memory_mib"] = private_memory_mib(self.ours.backend)
        figures["peers"] = [contender.figures() for contender in contenders]
        add_ratios(figures["peers"])
        return figures

    def _hnsw(self, ef: int) -> Peer:
        connection = peers.warm_connection(self.url)
        return peers.Pgvector(connection, TABLE, self.workload.bits, ef)

    def _ladder(self, question: Question, true: list[Found]) -> list[dict[str, Any]]:
        """HNSW at one setting after the other, until nothing is missed."""
        steps = []
        for ef in EFS:
            if question.k is not None and ef < question.k:
                continue
            contender = Contender(self._hnsw(ef), len(self.codes))
            for number, code in enumerate(self.codes):
                found = contender.answer(code, self.asked(question))
                found = self.without_own(contender.peer, number, found, question)
                contender.recalls.append(peers.recall(found, true[number], question))
            steps.append({"ef": ef, **contender.figures()})
            note(f"HNSW, ef {ef}: recall {steps[-1]['recall']}")
            if min(contender.recalls) == 1:
                break
        return steps

    def _take_turns(
        self, contenders: list[Contender], question: Question, true: list[Found]
    ) -> int:
        """Every query to every peer that gets it; how many of our answers are not the scan's."""
        wanted = self.asked(question)
        answers: dict[int, dict[int, Found]] = {id(each.peer): {} for each in contenders}
        for number in range(ROUNDS):
            first = number % len(contenders)
            for contender in contenders[first:] + contenders[:first]:
                for query in in_rounds(len(self.codes), contender.queries)[number]:
                    found = contender.answer(self.codes[query], wanted)
                    answers[id(contender.peer)][query] = found
                    found = self.without_own(contender.peer, query, found, question)
                    contender.recalls.append(peers.recall(found, true[query], question))
        ours = answers[id(self.ours)]
        return sum(ours[query] != found for query, found in answers[id(self.scan)].items())


def add_ratios(found: list[dict[str, Any]]) -> None:
    """To each peer, its times as multiples of ours (the first), and p95 as one of p50."""
    ours = found[0]
    for peer in found:
        for kind in ("milliseconds", "processor_milliseconds"):
            if kind not in peer:
                continue
            peer[f"{kind}_p95_over_p50"] = ratio(peer[kind]["p95"], peer[kind]["p50"])
            if peer is not ours and kind in ours:
                peer[f"{kind}_over_ours"] = {
                    p: ratio(peer[kind][p], ours[kind][p]) for p in ("p50", "p95", "p99")
                }


@contextmanager
def database(given: argparse.Namespace, workload: Workload) -> Iterator[tuple[Database, Any]]:
    """The database with the codes in it, and what loading them took."""
    name = f"bench-{workload.name}"
    if given.loaded:
        with connect(given.database, report=note) as db:
            databases.check_loaded(db, name, workload.packed, workload.bits)
            yield db, databases.index_bytes(db, name, len(workload.packed))
        return
    with databases.fresh(given.database, f"bench_{workload.name}", keep=given.keep) as db:
        built = databases.load(db, name, workload.packed, workload.bits)
        if given.hnsw:
            built["hnsw"] = building.hnsw(db, workload.packed)
        else:
            building.copy_vectors(db, workload.packed)
        yield db, built


def shared_buffers(db: Database) -> str:
    """The server's own cache: what does not fit into it is read anew between the peers' turns."""
    row = db.connection.execute("SELECT current_setting('shared_buffers')").fetchone()
    assert row is not None
    return str(row[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("workload", choices=workloads.NAMES)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--queries", type=int, default=1_000)
    parser.add_argument("--slow", type=int, default=15, help="queries for scans")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--loaded", action="store_true", help="what benchmarks.building left")
    parser.add_argument("--hnsw", action="store_true", help="build pgvector's HNSW, too")
    parser.add_argument("--without", nargs="+", choices=GROUPS, default=[], help="peers")
    parser.add_argument("--keep", action="store_true", help="do not drop the database")
    parser.add_argument("--database")
    given = parser.parse_args()
    drawn = workloads.draw(given.workload, given.rows, 2 * given.queries, given.seed)
    workload, others = drawn.halves()
    with database(given, workload) as (db, built):
        running = Study(db, workload, others, given)
        figures: dict[str, Any] = {
            "workload": workload.name,
            "rows": len(workload.packed),
            "bits": workload.bits,
            "queries": len(workload.asked),
            "seed": given.seed,
            "postgresql": db.connection.info.parameter_status("server_version"),
            "shared_buffers": shared_buffers(db),
            "versions": study.versions("faiss-cpu", "duckdb"),
            **built,
            "built": {peer.name: dict(peer.built) for peer, _ in running.others if len(peer.built)},
            "first_queries": running.first_queries(),
            "questions": [],
        }
        for question in QUESTIONS[workload.name]:
            found = running.answer_all(question)
            figures["questions"].append(found)
            for peer in found["peers"]:
                note(f"{question}: {peer['name']} {peer['milliseconds']} {peer['recall']}")
    # With HNSW's index the server holds twice as much: a file of its own.
    kind = "search-hnsw" if running.hnsw else "search"
    study.write(f"{kind}-{workload.name}-{len(workload.packed)}", study.command(), figures)


if __name__ == "__main__":
    main()
