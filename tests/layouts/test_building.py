"""Layouts are chosen, built anew and dropped."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import layouts
from retrieval_db.database import Connection
from retrieval_db.errors import UsageError
from tests import example


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
        widths: Any
        for widths in ([32, 32], [0, 5], [31, 31, 31], [], [40_000], [2**30, 2**30]):
            with pytest.raises(UsageError, match="1 to 31 bits"):
                db.tune(widths=widths)
        for widths in ([None, 5], [5.5]):
            with pytest.raises(UsageError):
                db.tune(widths=widths)
        with pytest.raises(psycopg.Error) as caught:
            db.connection.execute("SELECT tune_statements('example', '{5,NULL}')")
        assert caught.value.sqlstate == "RD003"
        widths = np.array([8, 8])
        assert db.tune(widths=widths).layout.widths == (8, 8)


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
