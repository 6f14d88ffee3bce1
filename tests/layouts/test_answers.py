"""Answers by bucket indexes: exact on every layout, whatever happens to rows and layouts."""

from __future__ import annotations

import itertools
import json
import random
import threading
from typing import Any, get_args

import psycopg
import pytest

import retrieval_db
from retrieval_db import codes
from retrieval_db.database import Connection
from retrieval_db.search import SearchSource
from tests import example
from tests.example import keys

# Layouts that cover the code, that leave gaps, and whose chunks span two words.
LAYOUTS = {
    16: ([8, 8], [3, 5, 7]),
    48: ([12, 12, 12, 12], [20, 28]),
    64: ([16, 16, 16, 16], [31, 31], [22, 21, 21]),
    128: ([16] * 8, [22, 22, 21, 21, 21, 21], [31, 20, 4, 30]),
    256: ([16] * 16, [31, 30, 29, 28, 27, 26, 25, 24, 23]),
}


def probe(
    connection: Connection, layout: int, encoder: int, words: codes.Words, **given: Any
) -> tuple[list[int], int, str]:
    """Keys, guaranteed radius and end of a search by buckets alone, whatever a scan costs."""
    row = connection.execute(
        f"SELECT keys, guaranteed, stop FROM search_layout_{layout}("
        "%(encoder)s, %(q1)s, %(q2)s, %(q3)s, %(q4)s, %(k)s, %(ties)s, %(radius)s, %(labels)s,"
        "%(metadata)s, %(max_candidates)s, NULL, %(all_rows)s, %(scan_price)s)",
        {"encoder": encoder, "ties": 0, "labels": None, "metadata": None, "max_candidates": None}
        | {f"q{number}": word for number, word in enumerate(words, start=1)}
        | {"all_rows": 5000, "scan_price": 1e12}
        | given,
    ).fetchone()
    assert row is not None
    return row[0], row[1], row[2]


@pytest.mark.parametrize("kind", ["uniform", "clustered", "equal"])
@pytest.mark.parametrize("bits", LAYOUTS)
def test_every_layout_finds_what_a_scan_finds(database_url: str, bits: int, kind: str) -> None:
    chance = random.Random(bits)
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, kind, 2500, bits)
        db.connection.execute("UPDATE images SET metadata = jsonb_build_object('m', id % 5)")
        strangers = example.random_codes(kind, 40, bits, seed=1)
        for widths, covering in itertools.product(LAYOUTS[bits], (True, False)):
            layout = db.tune(widths=widths, covering=covering).layout
            assert (layout.widths, layout.shared) == (tuple(widths), False)
            for number in range(20):
                query = (items.codes if number % 2 else strangers)[number]
                k = chance.choice([1, 3, 10, 100, 3000, None])
                radius = chance.choice([None, None, 0, 2, bits // 8]) if k else bits // 8
                filters: dict[str, Any] = chance.choice(
                    [{}, {}, {"labels": ["label 3"]}, {"metadata": json.dumps({"m": 2})}]
                )
                rows = [
                    row
                    for row in range(len(items))
                    if ("labels" not in filters or row % 7 == 3)
                    and ("metadata" not in filters or (row + 1) % 5 == 2)
                ]
                wanted = keys(items, query, rows)
                if radius is not None:
                    wanted = [key for key in wanted if key >> 54 <= radius]
                words = codes.words_of(query, bits)
                found, guaranteed, stop = probe(
                    db.connection,
                    layout.id,
                    1,
                    words,
                    k=k,
                    radius=radius,
                    # As many as there are, or more: then its shells have a limit.
                    all_rows=chance.choice([2500, 5000]),
                    **filters,
                )
                if stop == "exact":
                    assert found == wanted[:k]
                # Whatever ended it: within the guaranteed radius nothing is missing.
                sure = [key for key in wanted if key >> 54 <= guaranteed][:k]
                assert found[: len(sure)] == sure
                result = db.search(
                    retrieval_db.Query(words),
                    k=k,
                    radius=radius,
                    labels=filters.get("labels"),
                    metadata=json.loads(filters.get("metadata", "null")),
                )
                assert [hit.image_id | (hit.distance << 54) for hit in result.hits] == wanted[:k]
                assert result.exact


def test_the_pool_keeps_the_whole_last_tie(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "equal", 2500, 64)
        layout = db.tune().layout
        for row in range(20):
            words = codes.words_of(items.codes[row], 64)
            wanted = keys(items, items.codes[row])
            for ties in (0, 40, 2000):
                found, _, stop = probe(
                    db.connection, layout.id, 1, words, k=20, radius=None, ties=ties
                )
                assert stop == "exact"
                whole = [key for key in wanted if key >> 54 <= wanted[19] >> 54]
                kept = [key for key in found if key >> 54 <= found[19] >> 54]
                assert kept == (whole[: max(20, ties)] if ties else wanted[:20])


def test_a_spent_budget_is_admitted(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 2500, 128)
        layout = db.tune().layout
        for row in range(20):
            words = codes.words_of(items.codes[row], 128)
            found, guaranteed, stop = probe(
                db.connection, layout.id, 1, words, k=500, radius=None, max_candidates=30
            )
            assert stop == "budget"
            wanted = keys(items, items.codes[row])
            sure = [key for key in wanted if key >> 54 <= guaranteed]
            assert found[: len(sure)] == sure


def test_answers_stay_exact_while_rows_and_layouts_change(database_url: str) -> None:
    """Rows that nobody touches are always found, whatever else happens in the table."""
    stop = threading.Event()
    failures: list[BaseException] = []

    def change() -> None:
        try:
            with example.connect(database_url) as connection:
                number = 0
                while not stop.is_set():
                    number += 1
                    connection.execute(
                        "UPDATE images SET code_1 = (code_1 # %s) & 65535 WHERE id %% 10 = 3",
                        [number % 65536],
                    )
                    connection.execute(
                        "DELETE FROM images WHERE id %% 100 = 57 AND id < %s", [number]
                    )
        except BaseException as error:
            failures.append(error)

    def tune() -> None:
        try:
            with retrieval_db.connect(database_url) as db:
                while not stop.is_set():
                    db.tune(widths=[16, 16, 16, 16])
                    db.tune(widths=[22, 21, 21])
        except BaseException as error:
            failures.append(error)

    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 6000, 64)
        threads = [threading.Thread(target=change), threading.Thread(target=tune)]
        for thread in threads:
            thread.start()
        try:
            for row in range(0, 6000, 60):
                if row % 10 == 2 or row % 100 == 56:
                    continue
                query = codes.words_of(items.codes[row], 64)
                hits = db.search(retrieval_db.Query(query), k=None, radius=6).hits
                still = {hit.path: hit.distance for hit in hits}
                for path, distance in example.nearest(items, items.codes[row], None, 6):
                    number = int(path[8:-4]) + 1
                    if number % 10 != 3 and number % 100 != 57:
                        assert still.get(path) == distance
                assert len({hit.image_id for hit in hits}) == len(hits)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert failures == []


def test_a_reader_may_search_in_a_read_only_transaction(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 25_000, 64)
        name = db.connection.info.dbname
        db.connection.execute(f"CREATE ROLE reader_{name} LOGIN")
        try:
            db.connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO reader_{name}")
            with psycopg.connect(database_url, user=f"reader_{name}") as reader:
                reader.read_only = True
                rows = reader.execute(
                    "SELECT path, distance, exact FROM search_codes('example', %s, %s, %s, %s,"
                    " k => NULL, radius => 2)",
                    codes.words_of(items.codes[9], 64),
                ).fetchall()
            wanted = example.nearest(items, items.codes[9], None, 2)
            assert [row[:2] for row in rows] == wanted
            url = database_url.replace("postgres@", f"reader_{name}@", 1)
            with retrieval_db.connect(url) as other:
                for source in get_args(SearchSource):
                    found = other.search(other.query_by_id(10), k=None, radius=2, source=source)
                    assert [(hit.path, hit.distance) for hit in found.hits] == wanted
        finally:
            db.connection.execute(f"DROP OWNED BY reader_{name}")
            db.connection.execute(f"DROP ROLE reader_{name}")
