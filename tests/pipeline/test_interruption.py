"""Index runs that are stopped, killed or left without their server."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import psycopg

from retrieval_db.pipeline.background import IN_FLIGHT
from tests import command, example
from tests.example import rows
from tests.pipeline.indexed import EVERYTHING


def stop_in_the_second_transaction(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """An index run that has committed once and hangs in its next transaction."""
    with example.connect(url) as connection:
        connection.execute(
            """
            CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
            CREATE TRIGGER wait BEFORE INSERT ON images FOR EACH ROW
            WHEN (NEW.path LIKE '%2390.png') EXECUTE FUNCTION wait()
            """
        )
        process = command.start("index", folder, "-e", "phash64", "-d", url)
        while not sleeping(connection):
            assert process.poll() is None
            time.sleep(0.1)
    return process


def check_that_it_continues(url: str, cluster: Any, folder: Path, count: int) -> None:
    """At most what was in flight is missing, and the same command brings it."""
    stored = len(rows(url))
    assert 0 < stored < count
    assert count - stored <= IN_FLIGHT
    with example.connect(url) as connection:
        connection.execute("DROP TRIGGER IF EXISTS wait ON images; DROP FUNCTION IF EXISTS wait")
    arguments = ["index", folder, "-e", "phash64", "-d", url, "--json"]
    report = json.loads(command.succeed(*arguments).out)
    assert (report["unchanged"], report["inserted"]) == (stored, count - stored)
    with cluster.database(cluster.template()) as other:
        command.succeed("index", folder, "-e", "phash64", "-d", other)
        assert rows(url, EVERYTHING) == rows(other, EVERYTHING)


class TestInterruption:
    """At any point, in any way: whole transactions stay, and the same command continues."""

    COUNT = 2_400

    def test_ctrl_c(self, database_url: str, cluster: Any, tmp_path: Path) -> None:
        folder = command.many_photos(tmp_path / "photos", self.COUNT)
        process = stop_in_the_second_transaction(database_url, folder)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert b"Interrupted. What was written is kept; the same command continues." in err
        assert b"Traceback" not in err
        assert out == b""
        check_that_it_continues(database_url, cluster, folder, self.COUNT)

    def test_kill(self, database_url: str, cluster: Any, tmp_path: Path) -> None:
        folder = command.many_photos(tmp_path / "photos", self.COUNT)
        process = stop_in_the_second_transaction(database_url, folder)
        process.kill()
        process.communicate()
        with example.connect(database_url) as connection:
            # The server notices a dead client when it next reads from it.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
            while sleeping(connection):
                time.sleep(0.1)
        check_that_it_continues(database_url, cluster, folder, self.COUNT)

    def test_the_server_goes_away(self, private_cluster: Any, tmp_path: Path) -> None:
        folder = command.many_photos(tmp_path / "photos", self.COUNT)
        with private_cluster.database(private_cluster.template()) as url:
            process = stop_in_the_second_transaction(url, folder)
            private_cluster.stop()
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1, err
            assert b"Error: The database server went away." in err
            assert b"Traceback" not in err
            private_cluster.start()
            check_that_it_continues(url, private_cluster, folder, self.COUNT)


def sleeping(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND datname = current_database())"
    ).fetchone()
    return row == (True,)
