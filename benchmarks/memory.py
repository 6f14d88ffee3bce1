"""Codes in memory: how fast they are searched, and when that pays; what noting changes costs.

    python -m benchmarks.memory scan --rows 10000000
    python -m benchmarks.memory sources --rows 10000 100000 1000000 [--database URL]
    python -m benchmarks.memory noting [--database URL]

`scan` has no database: NumPy on one core, and FAISS on one thread as it is and with ties by row.
`sources` asks the same questions of both sources over one warm connection, one core each, and
counts how many searches must follow one reading of the codes for it to pay. `noting` writes rows
with the triggers of `image_changes` and without them. Rivals take turns.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from benchmarks import databases, study, workloads
from benchmarks.timing import percentiles, ratio, timed
from retrieval_db import Query, codes
from retrieval_db.client import Database
from retrieval_db.search import MemorySource, flat, resident

BITS = 128
BATCH = 100
TRIGGERS = "ALTER TABLE images {} TRIGGER images_{}_noted"


def scan(rows: int, queries: int) -> dict[str, Any]:
    """NumPy's and FAISS's brute force over the same codes."""
    packed, asked = workloads.clustered(rows, queries)
    words = np.ascontiguousarray(in_words(packed).T)
    wanted = in_words(asked)
    raw = faiss.IndexBinaryFlat(BITS)
    raw.add(packed)
    numpy_index = flat.NumPyIndex(words, BITS)
    faiss_index = flat.FaissIndex(words, BITS)
    labelled = np.flatnonzero(np.random.default_rng(0).random(rows) < 0.1)
    questions = []
    for k in (1, 10, 100):
        times: dict[str, list[float]] = {"numpy": [], "faiss": [], "faiss_ties_by_id": []}
        filtered: list[float] = []
        differing = 0
        for number in range(-3, queries):
            query = wanted[[number]]
            ours, best = timed(numpy_index.nearest, query, k, BITS)
            theirs, _ = timed(raw.search, asked[[number]], k)
            both, same = timed(faiss_index.nearest, query, k, BITS)
            part, _ = timed(numpy_index.nearest, query, k, BITS, labelled)
            if number < 0:  # to warm up
                continue
            differing += not np.array_equal(best[0], same[0])
            for name, elapsed in zip(times, (ours, theirs, both), strict=True):
                times[name].append(elapsed)
            filtered.append(part)
        batch = {
            name: round(timed(call)[0] / BATCH, 3)
            for name, call in {
                "numpy": lambda k=k: numpy_index.nearest(wanted[:BATCH], k, BITS),
                "faiss": lambda k=k: raw.search(asked[:BATCH], k),
                "faiss_ties_by_id": lambda k=k: faiss_index.nearest(wanted[:BATCH], k, BITS),
            }.items()
        }
        middle = {name: float(np.median(values)) for name, values in times.items()}
        questions.append(
            {
                "k": k,
                "milliseconds": {name: percentiles(values) for name, values in times.items()},
                "numpy_filtered_to_a_tenth_milliseconds": percentiles(filtered),
                "batch_of_100_milliseconds_each": batch,
                "numpy_over_faiss_p50": ratio(middle["numpy"], middle["faiss"]),
                "ties_by_id_over_faiss_p50": ratio(middle["faiss_ties_by_id"], middle["faiss"]),
                "answers_that_differ": differing,
            }
        )
        print(questions[-1], flush=True)
    return {"rows": rows, "bits": BITS, "queries": queries, "questions": questions}


def in_words(packed: NDArray[np.uint8]) -> flat.PackedWords:
    """Packed codes as `ResidentCodes` packs them, uint64 [N, 2]; a block at a time."""
    return np.concatenate(
        [
            resident.pack(codes.to_words(packed[start : start + 100_000], BITS), BITS)
            for start in range(0, len(packed), 100_000)
        ]
    )


def sources(db: Database, rows: int, queries: int) -> dict[str, Any]:
    """Both sources on a table of so many rows."""
    packed, asked = workloads.clustered(rows, queries)
    name = f"memory-{rows}"
    databases.load(db, name, packed, BITS)
    del packed
    db.connection.execute("SET max_parallel_workers_per_gather = 0")
    held: dict[str, MemorySource] = {}
    figures: dict[str, Any] = {"rows": rows}
    encoder = db.encoder(name)
    indexes: dict[str, flat.Factory] = {"numpy": flat.NumPyIndex, "faiss": flat.FaissIndex}
    for kind, make in indexes.items():
        held[kind] = MemorySource(db.connection, encoder, index=make)
        seconds = timed(held[kind].refresh)[0] / 1000
        figures[f"{kind}_read_seconds"] = round(seconds, 3)
    figures["arrays_bytes_per_row"] = round(held["numpy"].nbytes / rows, 1)
    ways: dict[str, Callable[[NDArray[np.uint8]], Any]] = {
        "database": lambda query: db.search(query, encoder=name),
        "numpy": lambda query: memory(held["numpy"], query),
        "faiss": lambda query: memory(held["faiss"], query),
    }
    times: dict[str, list[float]] = {way: [] for way in ways}
    answers: dict[str, list[Any]] = {way: [] for way in ways}
    # In rounds, so that each has the processor's caches that it would have alone.
    for start in range(0, queries, 50):
        for way, call in ways.items():
            for number in range(start - 10, min(start + 50, queries)):
                elapsed, answer = timed(call, asked[number])
                if number >= start:  # before that, to warm up
                    times[way].append(elapsed)
                    answers[way].append(answer.hits)
    differing = sum(
        any(hits != same[0] for hits in same) for same in zip(*answers.values(), strict=True)
    )
    figures["milliseconds"] = {way: percentiles(values) for way, values in times.items()}
    figures["answers_that_differ"] = differing
    figures["batch_of_100_milliseconds_each"] = {
        "database": round(timed(database_batch, db, name, asked[:BATCH])[0] / BATCH, 3),
        "numpy": round(timed(held["numpy"].search_batch, asked[:BATCH])[0] / BATCH, 3),
        "faiss": round(timed(held["faiss"].search_batch, asked[:BATCH])[0] / BATCH, 3),
    }
    figures["searches_until_reading_pays"] = {
        kind: break_even(
            figures[f"{kind}_read_seconds"] * 1000,
            float(np.mean(times["database"])),
            float(np.mean(times[kind])),
        )
        for kind in held
    }
    batches = figures["batch_of_100_milliseconds_each"]
    figures["batched_queries_until_reading_pays"] = {
        kind: break_even(figures[f"{kind}_read_seconds"] * 1000, batches["database"], batches[kind])
        for kind in held
    }
    # A search that finds one row changed.
    changed: dict[str, list[float]] = {kind: [] for kind in held}
    for query in asked[:10]:
        db.connection.execute(
            "UPDATE images SET label = 'x' WHERE id = (SELECT min(id) FROM images"
            " WHERE encoder_id = %s)", [encoder.id],
        )  # fmt: skip
        for kind, values in changed.items():
            values.append(timed(memory, held[kind], query)[0])
    figures["milliseconds_after_a_change"] = {
        kind: percentiles(values) for kind, values in changed.items()
    }
    assert all(source.full_reads == 1 for source in held.values())
    print(figures, flush=True)
    return figures


def memory(held: MemorySource, query: NDArray[np.uint8]) -> Any:
    # As `Database.search` does, which looks its encoder up first.
    return held.search(Query(codes.words_of(query, BITS)))


def database_batch(db: Database, name: str, asked: NDArray[np.uint8]) -> Any:
    return db.search_batch(asked, encoder=name)


def break_even(read: float, database: float, in_memory: float) -> int | None:
    """How many searches save what reading cost, all in milliseconds; None if they save nothing."""
    return None if in_memory >= database else int(np.ceil(read / (database - in_memory)))


def noting(db: Database, rounds: int) -> dict[str, Any]:
    """Statements of one, 20,000 and 100,000 rows, with the triggers and without, by turns."""
    name = "memory-noting"
    databases.load(db, name, workloads.clustered(1_000, 1)[0], BITS)
    encoder = db.encoder(name).id
    insert = (
        "INSERT INTO images (encoder_id, bits, code_1, code_2, code_3, code_4, path)"
        " SELECT %s, 128, i, i, i, i, %s || i FROM generate_series(1, %s) AS i"
    )
    update = "UPDATE images SET label = %s WHERE encoder_id = %s AND path ~ %s"
    times: dict[str, dict[str, list[float]]] = {}
    for number in range(2 * rounds):
        triggers = "noted" if number % 2 else "not_noted"
        for event in ("insert", "update", "delete", "rekey", "truncate"):
            switch = "ENABLE ALWAYS" if number % 2 else "DISABLE"
            db.connection.execute(TRIGGERS.format(switch, event).encode())
        db.connection.execute("VACUUM (ANALYZE) images")

        def write(what: str, statement: str, *values: Any, kind: str = triggers) -> float:
            elapsed = timed(db.connection.execute, statement.encode(), values)[0]
            times.setdefault(what, {}).setdefault(kind, []).append(elapsed)
            return elapsed

        for single in range(200):
            write("insert_1", insert, encoder, f"{number} {single} ", 1)
        write("insert_20000", insert, encoder, f"{number} many ", 20_000)
        write("insert_100000", insert, encoder, f"{number} most ", 100_000)
        write("update_100000", update, str(number), encoder, f"^{number} most")
        db.connection.execute(
            "DELETE FROM images WHERE encoder_id = %s AND path ~ %s", [encoder, f"^{number} "]
        )
    return {
        "rounds": rounds,
        "milliseconds_p50": {
            what: {kind: round(float(np.median(values)), 3) for kind, values in by.items()}
            for what, by in times.items()
        },
        "noted_over_not_noted": {
            what: round(float(np.median(by["noted"]) / np.median(by["not_noted"])), 3)
            for what, by in times.items()
        },
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("part", choices=["scan", "sources", "noting"])
    parser.add_argument("--rows", type=int, nargs="*", default=[1_000_000])
    parser.add_argument("--queries", type=int, default=100)
    parser.add_argument("--database")
    given = parser.parse_args()
    started = time.perf_counter()
    faiss.omp_set_num_threads(1)
    if given.part == "scan":
        figures = scan(given.rows[0], given.queries)
    elif given.part == "noting":
        with databases.fresh(given.database, "bench_memory") as db:
            figures = noting(db, 3)
    else:
        figures = {"bits": BITS, "k": 10, "queries": given.queries, "tables": []}
        for rows in given.rows:
            with databases.fresh(given.database, "bench_memory") as db:
                figures["tables"].append(sources(db, rows, given.queries))
    figures["versions"] = study.versions("faiss-cpu")
    figures["seconds_in_all"] = round(time.perf_counter() - started, 1)
    study.write(f"memory-{given.part}", study.command(), figures)


if __name__ == "__main__":
    main()
