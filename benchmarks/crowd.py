"""Twenty encoders in one table, against each alone in a database of its own.

    python -m benchmarks.crowd [--most 200000]

Encoders of 16 to 256 bits with 10,000 to 200,000 rows of clustered codes. The same queries go to
both in turns, k=10, on one core; in the crowd all encoders share one connection. The target is a
ratio of at most 1.2 at p50.
"""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from dataclasses import dataclass
from statistics import geometric_mean
from typing import Any

import numpy as np

from benchmarks import databases, peers, study, workloads
from benchmarks.peers import Code, Ours, Question
from benchmarks.timing import Times, ratio
from retrieval_db.client import Database
from retrieval_db.console.screen import note

WIDTHS = (16, 20, 24, 32, 40, 48, 56, 64, 64, 64, 72, 96, 112, 128, 128, 128, 160, 192, 256, 256)
QUESTION = Question(k=10)
TARGET = 1.2


@dataclass
class Member:
    """An encoder, alone and in the crowd."""

    name: str
    bits: int
    rows: int
    asked: list[Code]
    alone: Ours
    crowded: Ours


def sizes(most: int, seed: int) -> list[int]:
    """Rows of each encoder: spread evenly by ratio, in a seeded order."""
    spread = np.geomspace(most / 20, most, len(WIDTHS)).round().astype(int)
    return [int(rows) for rows in np.random.default_rng(seed).permutation(spread)]


def fill(
    crowd: Database, stack: ExitStack, given: argparse.Namespace, connection: Any
) -> list[Member]:
    """Load every encoder twice."""
    members = []
    for number, (bits, rows) in enumerate(
        zip(WIDTHS, sizes(given.most, given.seed), strict=True), start=1
    ):
        name = f"encoder-{number}-{bits}"
        packed, asked = workloads.clustered(rows, given.queries, bits, given.seed + number)
        alone = stack.enter_context(databases.fresh(given.database, f"bench_alone_{number}"))
        for db in (alone, crowd):
            databases.load(db, name, packed, bits)
        members.append(
            Member(
                name,
                bits,
                rows,
                Code.all(asked, bits),
                Ours(peers.warm_connection(alone.target.url), name),
                Ours(connection, name),
            )
        )
        note(f"{name}: {rows} rows")
    return members


def measure(member: Member) -> dict[str, Any]:
    """One encoder's queries, alone and in the crowd in turns."""
    alone, crowded = Times(), Times()
    for code in member.asked[:10]:
        member.alone.ask(code, QUESTION)
        member.crowded.ask(code, QUESTION)
    wrong = 0
    for number, code in enumerate(member.asked):
        turns = [(member.alone, alone), (member.crowded, crowded)]
        # Ids differ between the two databases, distances do not.
        found = [
            [pair[1] for pair in times.take(peer.ask, code, QUESTION, clock=peer.clock)]
            for peer, times in (turns if number % 2 else turns[::-1])
        ]
        wrong += found[0] != found[1]
    figures: dict[str, Any] = {
        "encoder": member.name,
        "bits": member.bits,
        "rows": member.rows,
        "alone": alone.figures(),
        "in_the_crowd": crowded.figures(),
        "answers_that_differ": wrong,
    }
    for kind in ("milliseconds", "processor_milliseconds"):
        if kind in figures["alone"] and kind in figures["in_the_crowd"]:
            figures[f"{kind}_ratio"] = {
                p: ratio(figures["in_the_crowd"][kind][p], figures["alone"][kind][p])
                for p in ("p50", "p95")
            }
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--most", type=int, default=200_000, help="rows of the largest")
    parser.add_argument("--queries", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    given = parser.parse_args()
    with ExitStack() as stack:
        crowd = stack.enter_context(databases.fresh(given.database, "bench_crowd"))
        connection = peers.warm_connection(crowd.target.url)
        members = fill(crowd, stack, given, connection)
        found = [measure(member) for member in members]
        for member in members:
            member.alone.connection.close()
        connection.close()
    for figures in found:
        note(f"{figures['encoder']}, {figures['rows']} rows: {figures['milliseconds_ratio']}")
    ratios = [figures["milliseconds_ratio"]["p50"] for figures in found]
    study.write(
        "crowd",
        study.command(),
        {
            "encoders": len(found),
            "rows": sum(figures["rows"] for figures in found),
            "k": QUESTION.k,
            "seed": given.seed,
            "target": TARGET,
            "ratio_at_p50": {
                "geometric_mean": ratio(geometric_mean(ratios), 1),
                "worst": max(ratios),
                "over_target": [
                    figures["encoder"]
                    for figures in found
                    if figures["milliseconds_ratio"]["p50"] > TARGET
                ],
            },
            "each": found,
        },
    )


if __name__ == "__main__":
    main()
