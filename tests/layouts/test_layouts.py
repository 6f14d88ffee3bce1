"""Bucket indexes: exact on every layout, used where they pay, replaced without a gap."""

from __future__ import annotations

import itertools
import json
import math
import random
import re
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import codes, layouts
from retrieval_db.database import Connection
from retrieval_db.errors import UsageError
from retrieval_db.search import SearchSource
from tests import example, postgres

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


def keys(items: retrieval_db.CodeSet, query: Any, kept: Sequence[int] | None = None) -> list[int]:
    """All keys (distance << 54 | id) by brute force, in order; ids follow the order of loading."""
    distances = codes.hamming_distances(query[None, :], items.codes)[0].tolist()
    rows = range(len(distances)) if kept is None else kept
    return sorted((distances[row] << 54) | (row + 1) for row in rows)


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


class TestPlans:
    """What the planner does with the generated statements."""

    @pytest.fixture
    def database(self, any_database_url: str) -> str:
        with retrieval_db.connect(any_database_url) as db:
            example.filled(db.connection, "uniform", 30_000, 128)
        return any_database_url

    def test_a_load_gives_many_rows_a_layout_of_their_own(self, database: str) -> None:
        with retrieval_db.connect(database) as db:
            layout = layouts.layout_of(db.connection, db.encoder())
            assert layout is not None
            assert not layout.shared
            assert sum(layout.widths) == 128
            result = db.search(db.query_by_id(7), radius=3)
        assert result.plan == "buckets"
        assert result.exact
        assert result.candidates is not None
        assert result.candidates < 300

    @pytest.mark.parametrize("covering", [True, False])
    def test_probes_are_index_scans(self, database: str, covering: bool) -> None:
        with retrieval_db.connect(database) as db:
            db.tune(covering=covering)
        with example.connect(database) as connection:
            connection.execute("VACUUM (ANALYZE) images")
            row = connection.execute(
                "SELECT prosrc, proconfig FROM pg_proc WHERE proname ~ '^search_layout_'"
                " ORDER BY oid DESC LIMIT 1"
            ).fetchone()
            assert row is not None
            source, settings = row
            for setting in settings:
                name, _, value = setting.partition("=")
                connection.execute("SELECT set_config(%s, %s, false)", [name, value])
            known = {"most": 64, "worst": 64 << 54, "allowed": 1000, "flip": 1}
            known |= dict.fromkeys(("q1", "q2", "q3", "q4", "p1", "p2"), 1)
            plans = []
            for statement in re.findall(r"SELECT count\(\*\).*?;", source, re.DOTALL):
                statement = statement.replace("INTO rows_met, found", "")
                for name, value in known.items():
                    statement = re.sub(rf"(?<![.\w]){name}(?!\w)", str(value), statement)
                found = connection.execute(f"EXPLAIN {statement}")
                plans.append("\n".join(str(row[0]) for row in found))
        kind = "Index Only Scan" if covering else "Index Scan"
        assert len(plans) >= 8  # with a limit and without
        for number, plan in enumerate(plans):
            assert re.search(rf"{kind} using images_bucket_\d+_{number // 2 + 1} ", plan)
            assert "Seq Scan on images" not in plan

    def test_small_tables_are_scanned(self, any_database_url: str) -> None:
        with retrieval_db.connect(any_database_url) as db:
            items = example.filled(db.connection, "uniform", 300, 128)
            assert db.search(items.codes[0]).plan == "scan"


class TestRareLabels:
    """Rows of a rare label are read first; common ones are met by the probes."""

    SHARES = (5, 40, 400, 4000, 30_000)

    @pytest.fixture
    def items(self, database_url: str) -> retrieval_db.CodeSet:
        packed = example.random_codes("clustered", 30_000, 128)
        items = example.code_set(packed, 128)
        labels = [
            f"one in {30_000 // next(s for s in self.SHARES if row * 7919 % 30_000 < s)}"
            for row in range(30_000)
        ]
        return replace(items, labels=labels)

    def test_answers_equal_brute_force(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        assert items.labels is not None
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            db.connection.execute("UPDATE images SET metadata = jsonb_build_object('m', id % 2)")
            db.connection.execute("VACUUM (ANALYZE) images")
            plans: dict[str, str] = {}
            for label in {name for name in items.labels if name}:
                rows = [row for row, name in enumerate(items.labels) if name == label]
                for number in range(0, 100, 10):
                    query = items.codes[number]
                    for k, metadata in ((50_000, {"m": 1}), (3, {"m": 0}), (10, None)):
                        result = db.search(query, k=k, labels=[label], metadata=metadata)
                        kept = [r for r in rows if not metadata or (r + 1) % 2 == metadata["m"]]
                        found = [hit.image_id | (hit.distance << 54) for hit in result.hits]
                        assert found == keys(items, query, kept)[:k]
                        assert result.exact
                        plans[label] = result.plan or ""
            several = ["one in 6000", "one in 750"]
            kept = [row for row, name in enumerate(items.labels) if name in several]
            result = db.search(items.codes[5], k=1000, labels=several)
            assert result.candidates == len(kept)
            found = [hit.image_id | (hit.distance << 54) for hit in result.hits]
            assert found == keys(items, items.codes[5], kept)
        assert plans["one in 6000"] == plans["one in 75"] == "filter"
        assert plans["one in 1"] == "buckets"

    def test_without_statistics_they_are_counted(
        self, database_url: str, items: retrieval_db.CodeSet
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            counted, estimated = (
                db.connection.execute(
                    "SELECT estimated_labelled(1, '{one in 7}', %s, %s)", rows
                ).fetchone()
                for rows in ((480_000, 1_000_000), (30_000, 30_000))
            )
        assert items.labels is not None
        there = items.labels.count("one in 7")
        assert counted == (there,)
        assert estimated is not None
        assert there / 2 < estimated[0] < there * 2


@pytest.mark.parametrize(("share", "rebuilt"), [(0.4, False), (0.6, True)])
def test_a_load_of_half_the_rows_builds_the_indexes_anew(
    database_url: str, monkeypatch: pytest.MonkeyPatch, share: float, rebuilt: bool
) -> None:
    """Whichever is cheaper, every row is found with its new code."""
    monkeypatch.setattr(layouts, "BULK", 5000)
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 20_000, 64)
        before = layouts.layout_of(db.connection, db.encoder())
        changed = np.arange(int(share * len(items)))
        new = items.codes.copy()
        new[changed] ^= 255
        report = db.load(replace(items, codes=new).take(changed))
        assert (report.inserted, report.updated) == (0, len(changed))
        after = layouts.layout_of(db.connection, db.encoder())
        assert before is not None
        assert after is not None
        assert (after.id != before.id) == rebuilt
        result = db.search(new[7], radius=4)
        assert result.plan == "buckets"
        assert [(hit.path, hit.distance) for hit in result.hits] == example.nearest(
            replace(items, codes=new), new[7], 10, 4
        )


def test_a_bulk_load_by_another_role_keeps_the_indexes_that_it_may_not_drop(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(layouts, "BULK", 5000)
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 20_000, 64)
        role = f"loader_{db.connection.info.dbname}"
        db.connection.execute(f"CREATE ROLE {role} LOGIN")
        try:
            for things in ("TABLES", "SEQUENCES"):
                db.connection.execute(f"GRANT ALL ON ALL {things} IN SCHEMA public TO {role}")
            with retrieval_db.connect(database_url.replace("postgres@", f"{role}@", 1)) as loader:
                loader.load(replace(items, codes=items.codes ^ np.uint8(255)))
                assert loader.search(items.codes[7] ^ np.uint8(255), radius=4).plan == "buckets"
                loader.remove_encoder("example")
                assert loader.encoders() == []
        finally:
            db.connection.execute(f"DROP OWNED BY {role}")
            db.connection.execute(f"DROP ROLE {role}")


def test_a_compact_layout_stays_compact(database_url: str) -> None:
    def size(db: retrieval_db.client.Database) -> int:
        row = db.connection.execute(
            "SELECT sum(pg_relation_size(oid)) FROM pg_class WHERE relname ~ '^images_bucket_'"
        ).fetchone()
        assert row is not None
        return int(row[0])

    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 25_000, 128)
        whole = size(db)
        db.tune(covering=False)
        compact = size(db)
        assert compact < whole / 3
        db.tune()
        assert size(db) == pytest.approx(compact, rel=0.1)
        result = db.search(items.codes[0], k=10)
        assert [(hit.path, hit.distance) for hit in result.hits] == example.nearest(
            items, items.codes[0], 10
        )
        db.tune(covering=True)
        assert size(db) == pytest.approx(whole, rel=0.1)


class TestShellRows:
    """The fullest buckets are counted once, and decide which shells need no limit."""

    def counted(self, db: retrieval_db.Database) -> tuple[int, list[int]]:
        row = db.connection.execute(
            "SELECT row_count, shell_rows FROM layouts WHERE active AND encoder_id IS NOT NULL"
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    @pytest.mark.parametrize("kind", ["uniform", "equal"])
    def test_they_are_the_sums_of_the_fullest_buckets(self, database_url: str, kind: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, kind, 25_000, 64)
            layout = layouts.layout_of(db.connection, db.encoder())
            assert layout is not None
            rows, shells = self.counted(db)
        bits = np.unpackbits(items.codes, axis=1).astype(np.int64)
        wanted = [0] * 5
        start = 0
        for width in layout.widths:
            values = bits[:, start : start + width] @ (1 << np.arange(width)[::-1])
            sizes = np.sort(np.unique(values, return_counts=True)[1])[::-1]
            start += width
            for flips in range(5):
                met = int(sizes[: math.comb(width, flips)].sum())
                wanted[flips] = max(wanted[flips], met)
        assert (rows, shells) == (25_000, wanted)

    def test_a_sample_of_many_rows_comes_near(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "equal", 120_000, 64)
            rows, shells = self.counted(db)
            assert rows == 120_000
            wanted = db.connection.execute(
                "SELECT count(*) FROM images GROUP BY code_1 ORDER BY 1 DESC LIMIT 1"
            ).fetchone()
            assert wanted is not None
        assert wanted[0] / 2 < shells[0] < 3 * wanted[0]
        assert shells == sorted(shells)

    def test_a_bucket_that_came_later_ends_the_shell(self, database_url: str) -> None:
        """A shell is ended also where rows of one code were loaded after the counting."""
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "uniform", 25_000, 64)
            later = example.code_set(np.repeat(items.codes[:1], 15_000, axis=0), 64)
            later = replace(later, paths=[f"later/{path}" for path in later.paths or []])
            db.load(later)
            assert self.counted(db)[0] == 25_000
            db.connection.execute("VACUUM ANALYZE images")
            for _ in range(2):
                result = db.search(items.codes[0], k=1800)
                assert (result.plan, result.exact) == ("scan", True)
                assert {hit.distance for hit in result.hits} == {0}
                assert result.candidates is not None
                assert result.candidates < 40_000 + 5_000
                db.tune()
                assert 12_000 < self.counted(db)[1][0] < 18_000


class TestWarm:
    """New indexes are read into the server's cache; building leaves them outside of it."""

    def test_whole_indexes_are_read_in_order(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 25_000, 64)
            layout = layouts.layout_of(db.connection, db.encoder())
            assert layout is not None
            statements = [
                str(row[0])
                for row in db.connection.execute(layouts.SQL["read_indexes"], [1]).fetchall()
            ]
            assert len(statements) == len(layout.widths)
            with db.connection.transaction():
                for setting in ("enable_seqscan", "enable_bitmapscan", "enable_sort"):
                    db.connection.execute(layouts.SQL["off"], [setting])
                for number, statement in enumerate(statements, start=1):
                    rows = db.connection.execute(f"EXPLAIN {statement}").fetchall()
                    plan = "\n".join(str(row[0]) for row in rows)
                    assert f"Index Only Scan using images_bucket_{layout.id}_{number} " in plan
                    assert db.connection.execute(statement).fetchall() == []

    def test_a_load_and_tune_do_it(self, database_url: str) -> None:
        def entries_read() -> list[int]:
            """Of each bucket index of the encoder's own layout, since it was built."""
            with retrieval_db.connect(database_url) as db:
                layout = layouts.layout_of(db.connection, db.encoder())
                assert layout is not None
                found = db.connection.execute(
                    "SELECT idx_tup_read FROM pg_stat_user_indexes WHERE indexrelname LIKE %s",
                    [f"images\\_bucket\\_{layout.id}\\_%"],
                ).fetchall()
                assert len(found) == len(layout.widths)
                return [row[0] for row in found]

        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 25_000, 64)
        assert min(entries_read()) >= 25_000
        with retrieval_db.connect(database_url) as db:
            db.tune()
        assert min(entries_read()) >= 25_000

    def test_also_where_commits_wait_for_nothing(self, private_cluster: postgres.Cluster) -> None:
        """A load ends with every row visible to all, also on a server that flushes late."""
        late = {"synchronous_commit": "off", "wal_writer_delay": "10s"}
        late["wal_writer_flush_after"] = "1GB"
        with private_cluster.database(private_cluster.template()) as url:
            with example.connect(url) as connection:
                for name, value in late.items():
                    connection.execute(f"ALTER SYSTEM SET {name} = '{value}'")
                connection.execute("SELECT pg_reload_conf()")
            with retrieval_db.connect(url) as db:
                assert db.connection.execute("SHOW synchronous_commit").fetchone() == ("off",)
                # The server keeps one flush position for each 32 transactions: of all the load's.
                spent = "SELECT pg_current_xact_id()::text::int % 32"
                while db.connection.execute(spent).fetchone() != (31,):
                    pass
                example.filled(db.connection, "uniform", 25_000, 64)
                row = db.connection.execute(
                    "SELECT relpages - relallvisible FROM pg_class WHERE relname = 'images'"
                ).fetchone()
                assert row == (0,)
                assert db.connection.execute(layouts.SQL["read_indexes"], [1]).fetchall()

    def test_only_where_they_fit_and_no_row_is_needed(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 25_000, 64)
            wanted = layouts.SQL["read_indexes"]
            assert db.connection.execute(wanted, [1]).fetchall()
            small = wanted.replace("current_setting('shared_buffers')", "'1 MB'")
            assert not db.connection.execute(small, [1]).fetchall()
            db.connection.execute("UPDATE images SET label = 'other'")
            db.connection.execute("ANALYZE images")
            assert not db.connection.execute(wanted, [1]).fetchall()
            db.tune(covering=False)
            assert not db.connection.execute(wanted, [1]).fetchall()


def test_a_layout_is_asked_also_where_no_function_names_it(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 25_000, 64)
        before = db.search(items.codes[3], radius=2)
        for statement in (
            "UPDATE layouts SET active = false",
            "DO $$ BEGIN EXECUTE layout_dispatch_statement(); END $$",
            "UPDATE layouts SET active = true WHERE encoder_id IS NOT NULL",
        ):
            db.connection.execute(statement)
        after = db.search(items.codes[3], radius=2)
    assert before.plan == after.plan == "buckets"
    assert before.hits == after.hits


def test_a_missing_index_means_a_scan(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "uniform", 25_000, 64)
        assert db.search(items.codes[0], radius=1).plan == "buckets"
        layout = layouts.layout_of(db.connection, db.encoder())
        assert layout is not None
        db.connection.execute(f"DROP INDEX images_bucket_{layout.id}_1")
        result = db.search(items.codes[0], k=5)
        assert result.plan == "scan"
        assert [(hit.path, hit.distance) for hit in result.hits] == example.nearest(
            items, items.codes[0], 5
        )


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


def test_what_an_interrupted_tune_left_is_dropped(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        example.filled(db.connection, "uniform", 500, 64)
        statements = layouts.tune_statements(db.connection, "example")
        for statement in statements[:3]:
            db.connection.execute(statement.encode())
        assert _buckets(db.connection) > {f"images_bucket_{n}_{c}" for n in (1, 2) for c in (1, 2)}
        layout = db.tune().layout
        assert {name for name in _buckets(db.connection) if "_bucket_2_" not in name} == {
            f"images_bucket_{layout.id}_{chunk}" for chunk in range(1, len(layout.widths) + 1)
        }
        db.remove_encoder("example")
        assert all("_bucket_2_" in name for name in _buckets(db.connection))


def _buckets(connection: Connection) -> set[str]:
    rows = connection.execute("SELECT relname FROM pg_class WHERE relname ~ '^images_bucket_'")
    return {str(row[0]) for row in rows.fetchall()}


def test_impossible_widths_are_refused(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        example.filled(db.connection, "uniform", 10, 64)
        for widths in ([32, 32], [0, 5], [31, 31, 31]):
            with pytest.raises(UsageError, match="1 to 31 bits"):
                db.tune(widths=widths)


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


@pytest.mark.parametrize("rows", [1, 1000, 10**5, 10**7, 10**9])
@pytest.mark.parametrize("bits", [4, 16, 48, 64, 128, 256])
def test_chunks_follow_the_number_of_rows(database_url: str, bits: int, rows: int) -> None:
    with example.connect(database_url) as connection:
        found = connection.execute("SELECT chunk_widths(%s, %s)", [bits, rows]).fetchone()
    assert found is not None
    widths = np.array(found[0])
    assert widths.sum() == bits
    assert widths.max() - widths.min() <= 1
    assert widths.max() <= 31


@pytest.mark.parametrize("rows", [1, 1000, 10**5, 10**6, 10**9])
@pytest.mark.parametrize("bits", [4, 64, 128, 256])
def test_compact_chunks_are_as_many_and_no_wider(database_url: str, bits: int, rows: int) -> None:
    with example.connect(database_url) as connection:
        found = connection.execute(
            "SELECT chunk_widths(%(bits)s, %(rows)s), compact_chunk_widths(%(bits)s, %(rows)s)",
            {"bits": bits, "rows": rows},
        ).fetchone()
    assert found is not None
    widths, compact = map(np.array, found)
    assert len(compact) == len(widths)
    assert (compact <= widths).all()
    # No narrower than two rows to a bucket of uniform codes ask for.
    assert (compact >= np.minimum(widths, np.log2(max(rows, 2)) - 1.5)).all()
