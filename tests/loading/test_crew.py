"""Several writers at once: those of one load, and those of several."""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from psycopg.conninfo import make_conninfo

import retrieval_db
from retrieval_db import CodeSet, codes, encoders, layouts, loading
from retrieval_db.database import open_connection
from retrieval_db.errors import FormatError
from retrieval_db.loading import bulk, crew
from tests import example, postgres
from tests.loading.tables import features_of, rows_of


@pytest.mark.parametrize("features", [True, False])
def test_loaders_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, features: bool
) -> None:
    """Two clients write the same paths in opposite orders: no error, each path once."""
    monkeypatch.setattr(bulk, "BATCH", 50)
    items = example.complete_set(600)
    if not features:
        items = replace(items, features=None)
    orders = [np.arange(600), np.arange(600)[::-1], np.random.default_rng(1).permutation(600)]
    start = threading.Barrier(len(orders))
    failures: list[BaseException] = []

    def work(order: Any) -> None:
        try:
            with retrieval_db.connect(database_url) as db:
                start.wait()
                for _ in range(2):
                    db.load(items.take(order))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[order]) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with retrieval_db.connect(database_url) as db:
        assert sorted(row[0] for row in rows_of(db.connection)) == sorted(items.paths)
        assert len(features_of(db.connection)) == (600 if features else 0)


class TestSideBySide:
    """Several writers of one load leave what one would leave."""

    @pytest.fixture(autouse=True)
    def small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        monkeypatch.setattr(layouts, "BULK", 20)
        monkeypatch.setattr(crew, "workers", lambda: 4)

    @pytest.mark.parametrize("features", [True, False])
    def test_rows_in_order(self, database_url: str, features: bool) -> None:
        items = example.complete_set(205)
        items = items if features else replace(items, features=None)
        with retrieval_db.connect(database_url) as db:
            report = db.load(items)
            assert (report.inserted, report.updated) == (205, 0)
            words = codes.to_words(items.codes, 64).tolist()
            expected = [(path, *word) for path, word in zip(items.paths, words, strict=True)]
            assert rows_of(db.connection) == expected
            report = db.load(items.take(np.arange(205)[::-1]))
            assert (report.inserted, report.updated) == (0, 205)
            assert len(features_of(db.connection)) == (205 if features else 0)

    def test_the_last_of_equal_paths_counts(self, database_url: str) -> None:
        items = example.complete_set(400)
        paths = [f"{row % 7}.jpg" for row in range(400)]
        last = {path: row for row, path in enumerate(paths)}
        words = codes.to_words(items.codes, 64).tolist()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, paths=paths))
            found = {path: list(code) for path, *code in rows_of(db.connection)}
        assert found == {path: words[row] for path, row in last.items()}

    def test_the_same_role(self, private_cluster: postgres.Cluster) -> None:
        """The further connections write as whom the first one does, if it may draw ids."""
        with private_cluster.database(private_cluster.template()) as url:
            with open_connection(url) as connection:
                connection.execute("CREATE ROLE writer")
                connection.execute(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer"
                )
            with retrieval_db.connect(url) as db:
                db.connection.execute("SET ROLE writer")
                with crew.more_connections(db.connection, 1) as others:
                    assert others == []
                items = replace(example.complete_set(100), features=None)
                assert db.load(items).inserted == 100
                db.connection.execute("RESET ROLE")
                db.connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO writer")
                db.connection.execute("SET ROLE writer")
                with crew.more_connections(db.connection, 1) as (other,):
                    assert other.execute("SELECT current_user").fetchone() == ("writer",)
                assert db.load(items).updated == 100

    def test_no_connection_to_spare(self, private_cluster: postgres.Cluster) -> None:
        with private_cluster.database(private_cluster.template()) as url:
            with open_connection(url) as connection:
                connection.execute("CREATE ROLE guest LOGIN CONNECTION LIMIT 1")
                connection.execute(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest"
                )
            with retrieval_db.connect(make_conninfo(url, user="guest")) as db:
                with crew.more_connections(db.connection, 1) as others:
                    assert others == []
                items = replace(example.complete_set(100), features=None)
                assert db.load(items).inserted == 100

    def test_an_error_stops_all(self, database_url: str) -> None:
        items = example.complete_set(400)
        items = replace(items, paths=[*items.paths[:205], "zero\0byte.jpg", *items.paths[206:]])
        with retrieval_db.connect(database_url) as db:
            writers = [loading.Writer(db.connection, stored(db, items))]
            with crew.more_connections(db.connection, 2) as others:
                writers += [loading.Writer(other, writers[0].encoder) for other in others]
                assert len(writers) == 3
                with pytest.raises(FormatError, match="zero byte"):
                    crew.write_all(writers, items.batches(10))
            assert len(rows_of(db.connection)) % 10 == 0
            assert 100 < len(rows_of(db.connection)) < 300


def stored(db: retrieval_db.client.Database, items: CodeSet) -> encoders.StoredEncoder:
    return encoders.register(db.connection, str(items.encoder), items.bits, fingerprint=None)
