"""Loading codes, beside a bare COPY of bytes that are ready.

    python -m benchmarks.loading [--rows 1000000] [--repeat 3]

The bare COPY writes prebuilt binary rows over one connection: into `images` as it is migrated
(constraints, foreign key), with its primary and unique keys but no bucket index nor the one on
labels; and into a table of the same columns that has the two keys and nothing else. Ours is
`Database.load` of arrays in memory: new paths, then the same paths again with other codes, in a
process of its own. Each repeat uses new databases, in turns, after a checkpoint. The targets: new
paths within 1.5 times the bare COPY, existing ones within 3 times, up to the last row written;
what follows (bucket indexes, vacuum, analyze) is told beside it.
"""

from __future__ import annotations

import argparse
import multiprocessing
import threading
import time
from contextlib import AbstractContextManager, suppress
from statistics import median
from typing import Any

import psutil

from benchmarks import databases, study, workloads
from benchmarks.timing import ratio
from retrieval_db import CodeSet, codes, connect, encoders
from retrieval_db.client import Database
from retrieval_db.console.screen import note
from retrieval_db.loading import copy_format

BITS = 128
NAME = "bench-loading"
BLOCK = 20_000
COLUMNS = "(encoder_id, bits, code_1, code_2, code_3, code_4, path)"
TARGETS = {"new_paths": 1.5, "existing_paths": 3.0}

SECONDARY = r"""
SELECT format('DROP INDEX %s', indexrelid::regclass)
FROM pg_index WHERE indrelid = 'images'::regclass AND NOT indisunique
"""
LAYOUTS = "SELECT statement FROM layouts, layout_drop_statements(id, false) AS statement"
KEYS_ONLY = (
    "CREATE TABLE bare (LIKE images INCLUDING DEFAULTS INCLUDING IDENTITY)",
    "ALTER TABLE bare ADD PRIMARY KEY (id)",
    "ALTER TABLE bare ADD UNIQUE (encoder_id, path)",
)


def code_set(rows: int, seed: int) -> CodeSet:
    """What is loaded."""
    packed, _ = workloads.clustered(rows, 1, BITS, seed)
    return CodeSet(packed, BITS, databases.paths_of(rows), encoder=NAME, fingerprint=NAME)


def prebuilt(items: CodeSet, encoder_id: int) -> list[bytes]:
    """The rows as COPY takes them."""
    blocks = []
    for start in range(0, len(items), BLOCK):
        part = items.take(slice(start, start + BLOCK))
        words = codes.to_words(part.codes, BITS)
        columns = [
            copy_format.constant(encoder_id.to_bytes(4, "big"), len(part)),
            copy_format.constant(BITS.to_bytes(2, "big"), len(part)),
            *(copy_format.integers(words[:, word], 8) for word in range(codes.WORDS)),
            copy_format.fields([path.encode() for path in part.paths]),
        ]
        blocks.append(copy_format.rows(columns))
    return blocks


def bare(db: Database, items: CodeSet, table: str) -> float:
    """Seconds of a COPY of prebuilt bytes into `images`, or into a table with the keys only."""
    run = db.connection.execute
    for (statement,) in run(SECONDARY).fetchall():
        run(statement)
    for statement in KEYS_ONLY:
        run(statement)
    encoder = encoders.register(db.connection, NAME, BITS, fingerprint=NAME)
    blocks = prebuilt(items, encoder.id)
    run("CHECKPOINT")
    started = time.perf_counter()
    with (
        db.connection.cursor() as cursor,
        cursor.copy(f"COPY {table} {COLUMNS} FROM STDIN (FORMAT binary)".encode()) as copy,
    ):
        copy.write(copy_format.SIGNATURE)
        for block in blocks:
            copy.write(block)
        copy.write(copy_format.TRAILER)
    return time.perf_counter() - started


class Memory(AbstractContextManager["Memory"]):
    """Bytes of memory of this process and its children: before, and the most in between."""

    def __init__(self) -> None:
        self.before = self.peak = self._now()
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._look)
        self._watch.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._watch.join()

    def _look(self) -> None:
        while not self._end.wait(0.02):
            self.peak = max(self.peak, self._now())

    @staticmethod
    def _now() -> int:
        me = psutil.Process()
        total = 0
        for process in (me, *me.children(recursive=True)):
            with suppress(psutil.NoSuchProcess):
                total += process.memory_info().rss
        return total


def ours(url: str, rows: int, seed: int) -> dict[str, float]:
    """A load in this process: seconds until the last row, in all, and the memory it took."""
    items = code_set(rows, seed)
    with connect(url) as db, Memory() as memory:
        db.connection.execute("CHECKPOINT")
        marks = [0.0]

        def progress(_: int) -> None:
            marks.append(time.perf_counter() - started)

        started = time.perf_counter()
        report = db.load(items, progress=progress)
    return {
        "seconds": marks[-1],
        "seconds_with_indexes_and_vacuum": report.seconds,
        "client_memory_mib": memory.before / 2**20,
        "client_peak_memory_mib": memory.peak / 2**20,
    }


def in_a_process(url: str, rows: int, seed: int) -> dict[str, float]:
    """`ours`, where nothing else has used memory before."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(ours, (url, rows, seed))


def one_round(given: argparse.Namespace, number: int) -> dict[str, dict[str, float]]:
    """Each way once, beginning with another one in each round."""
    items = code_set(given.rows, given.seed)
    found: dict[str, dict[str, float]] = {}

    def into_images() -> None:
        with databases.fresh(given.database, "bench_loading") as db:
            found["bare_copy"] = {"seconds": bare(db, items, "images")}

    def into_bare_table() -> None:
        with databases.fresh(given.database, "bench_loading") as db:
            found["bare_copy_keys_only"] = {"seconds": bare(db, items, "bare")}

    def loads() -> None:
        with databases.fresh(given.database, "bench_loading") as db:
            url = db.target.url
            found["new_paths"] = in_a_process(url, given.rows, given.seed)
            found["existing_paths"] = in_a_process(url, given.rows, given.seed + 1)
            for (statement,) in db.connection.execute(LAYOUTS).fetchall():
                db.connection.execute(statement)
            key = "existing_paths_without_bucket_indexes"
            found[key] = in_a_process(url, given.rows, given.seed + 2)

    ways = [into_images, loads, into_bare_table]
    for way in ways[number % 3 :] + ways[: number % 3]:
        way()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--database")
    given = parser.parse_args()
    rounds = []
    for number in range(given.repeat):
        rounds.append(one_round(given, number))
        note(str(rounds[-1]))
    figures: dict[str, Any] = {"rows": given.rows, "bits": BITS, "seed": given.seed}
    middle = {
        way: {key: median(found[way][key] for found in rounds) for key in rounds[0][way]}
        for way in rounds[0]
    }
    for way, values in middle.items():
        seconds = values["seconds"]
        figures[way] = {
            **{key: round(value, 2) for key, value in values.items()},
            "rows_per_second": round(given.rows / seconds),
            "seconds_of_each_round": [round(found[way]["seconds"], 2) for found in rounds],
        }
        if not way.startswith("bare"):
            for peer in ("bare_copy", "bare_copy_keys_only"):
                figures[way][f"over_{peer}"] = ratio(seconds, middle[peer]["seconds"])
    figures["targets_over_bare_copy"] = TARGETS
    print(figures)
    study.write(f"loading-{given.rows}", study.command(), figures)


if __name__ == "__main__":
    main()
