"""Loads that are stopped, or that lose their server or their connection."""

from __future__ import annotations

import signal
import time

import pytest

import retrieval_db
from retrieval_db.database import open_connection
from retrieval_db.errors import ConnectionFailed, ConnectionLost
from retrieval_db.loading import bulk
from tests import example, postgres
from tests.loading.tables import features_of, rows_of


class TestInterrupted:
    """Whole batches stay, and the same load continues."""

    def test_an_exception_between_batches(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        items = example.complete_set()

        def stop(rows: int) -> None:
            raise KeyboardInterrupt

        with retrieval_db.connect(database_url) as db:
            with pytest.raises(KeyboardInterrupt):
                db.load(items, progress=stop)
            assert len(rows_of(db.connection)) == 10
            report = db.load(items)
            assert (report.inserted, report.updated) == (30, 10)

    def test_the_server_is_killed(
        self, private_cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 100)
        items = example.complete_set(450)
        batches = 0

        def kill(rows: int) -> None:
            nonlocal batches
            batches += 1
            if batches == 2:
                private_cluster.stop(signal.SIGKILL)

        with private_cluster.database(private_cluster.template()) as url:
            with (
                retrieval_db.connect(url) as db,
                pytest.raises(ConnectionLost, match="run the same command again"),
            ):
                db.load(items, progress=kill)
            with pytest.raises(ConnectionFailed, match="that the server runs"):
                open_connection(url)
            restart(private_cluster)
            with retrieval_db.connect(url) as db:
                kept = len(rows_of(db.connection))
                assert kept % 100 == 0
                report = db.load(items)
                assert (report.inserted, report.updated) == (450 - kept, kept)
                assert sorted(row[0] for row in rows_of(db.connection)) == sorted(items.paths)
                assert len(features_of(db.connection)) == 450

    def test_the_connection_is_ended(self, database_url: str) -> None:
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db, example.connect(database_url) as other:
            pid = db.connection.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            with pytest.raises(ConnectionLost):
                db.load(items)
        with retrieval_db.connect(database_url) as db:
            assert db.load(items).inserted == 40


def restart(cluster: postgres.Cluster) -> None:
    """Start again after a kill: its children go a little later than the server itself."""
    for _ in range(100):
        try:
            cluster.start()
        except RuntimeError:
            time.sleep(0.1)
        else:
            return
    cluster.start()
