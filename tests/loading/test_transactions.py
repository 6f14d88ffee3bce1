"""A load in the caller's own transaction comes and goes with it."""

from __future__ import annotations

import pytest

import retrieval_db
from retrieval_db import layouts
from retrieval_db.errors import UsageError
from tests import example

# Enough for indexes of its own, and to be vacuumed.
ROWS = 25_000


@pytest.mark.parametrize("rows", [3, 2_000, ROWS])
def test_committed(database_url: str, rows: int) -> None:
    items = example.code_set(example.random_codes("clustered", rows, 64), 64)
    with retrieval_db.connect(database_url) as db:
        with db.connection.transaction():
            assert db.load(items).inserted == rows
        assert len(db.search(items.codes[0], k=None, radius=64).hits) == rows
        layout = layouts.layout_of(db.connection, db.encoder())
        assert layout is not None
        assert layout.shared == (rows < ROWS)


def test_rolled_back(database_url: str) -> None:
    items = example.code_set(example.random_codes("clustered", ROWS, 64), 64)
    with retrieval_db.connect(database_url) as db:
        with db.connection.transaction(force_rollback=True):
            db.load(items)
        assert db.encoders() == []
        db.load(items)
        assert db.search(items.codes[0]).exact


def test_who_may_only_write_rows(database_url: str) -> None:
    """Indexes are the owner's affair: without them the load is whole all the same."""
    items = example.code_set(example.random_codes("clustered", ROWS, 64), 64)
    with retrieval_db.connect(database_url) as db:
        for statement in (
            "CREATE ROLE writer",
            "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer",
            "GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO writer",
        ):
            db.connection.execute(statement)
        try:
            with db.connection.transaction():
                db.connection.execute("SET LOCAL ROLE writer")
                assert db.load(items).inserted == ROWS
            assert len(db.search(items.codes[0], k=ROWS).hits) == ROWS
        finally:
            db.connection.execute("DROP OWNED BY writer")
            db.connection.execute("DROP ROLE writer")


def test_tune_is_for_nobodys_transaction(database_url: str) -> None:
    with retrieval_db.connect(database_url) as db:
        example.filled(db.connection, "clustered", 300, 64)
        with db.connection.transaction():
            with pytest.raises(UsageError, match="outside of transactions"):
                db.tune()
            assert len(db.encoders()) == 1
        assert db.tune().layout.widths
