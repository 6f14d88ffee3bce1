"""Indexes in the cache of the server."""

from __future__ import annotations

import retrieval_db
from retrieval_db import layouts
from tests import example, postgres


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
