"""When bucket indexes are used, how, and what is read instead."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

import retrieval_db
from retrieval_db import layouts
from tests import example
from tests.example import keys


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
