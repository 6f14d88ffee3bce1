"""Embedded servers that were killed, interrupted, deleted or damaged, started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess

import psutil
import psycopg
import pytest

from retrieval_db.errors import ServerError
from retrieval_db.server import installation
from tests.server.servers import MakeServer, ask, fill, is_alive, kill


def test_killed_then_started(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    fill(postgres.url())
    # A session that is busy when its server dies keeps the old memory for a while.
    connection = psycopg.connect(postgres.url())
    kill(postgres)
    assert not postgres.status().running
    with pytest.raises(ServerError, match="not running"):
        postgres.url()
    postgres.start()
    assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000
    connection.close()


def test_a_pid_that_is_another_programs_now(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    fill(postgres.url())
    killed = kill(postgres)
    # The same account as the server's, because PostgreSQL asks with kill(pid, 0).
    account = installation.account_of((postgres.status().data_dir).stat().st_uid)
    other = subprocess.Popen(["sleep", "600"], **account.switch())
    try:
        pid_file = postgres.status().data_dir / "postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace(str(killed), str(other.pid), 1))
        assert not postgres.status().running
        postgres.stop()
        assert other.poll() is None
        postgres.start()
        assert postgres.status().pid != other.pid
        assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000
        postgres.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_pid_of_another_postgresql(make_server: MakeServer) -> None:
    postgres, other = make_server(), make_server("other")
    postgres.start()
    other.start()
    killed = kill(postgres)
    pid_file = postgres.status().data_dir / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(str(killed), str(other.status().pid), 1))
    assert not postgres.status().running
    postgres.start()
    assert postgres.status().pid != other.status().pid
    assert other.status().running


def test_a_half_written_pid_file(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    kill(postgres)
    (postgres.status().data_dir / "postmaster.pid").write_text("")
    assert not postgres.status().running
    # PostgreSQL itself says what to do about it.
    with pytest.raises(ServerError, match=r"postmaster\.pid"):
        postgres.start()


def test_interrupted_first_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    postgres.home.mkdir()
    postgres.home.chmod(0o755)
    left = postgres.home / f"data-{max(installation.installations())}.new"
    left.mkdir()
    (left / "PG_VERSION").write_text("18\n")
    assert postgres.status().data_version is None
    postgres.start()
    assert not left.exists()


def test_the_server_of_a_deleted_folder_is_ended(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    pid = postgres.status().pid
    assert pid is not None
    data_dir = postgres.status().data_dir
    while data_dir.exists():  # it goes on writing
        shutil.rmtree(data_dir, ignore_errors=True)
    postgres.start()
    assert not is_alive(pid)
    assert ask(postgres.url(), "SELECT 1") == 1


def test_a_server_that_no_pid_shows(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = make_server()
    postgres.start()
    pid_file = postgres.status().data_dir / "postmaster.pid"
    text = pid_file.read_text()
    pid = postgres.status().pid
    # As in another container: the folder is the same, the processes are out of sight.
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(()))
    pid_file.write_text(text.replace(str(pid), str(os.getpid()), 1))
    with pytest.raises(ServerError, match="another container"):
        postgres.start()
    pid_file.write_text(text)
    account = installation.account_of(postgres.status().data_dir.stat().st_uid)
    account.give(pid_file)


def test_the_log_says_why_it_does_not_start(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    postgres.stop()
    config = postgres.status().data_dir / "postgresql.conf"
    config.write_text(config.read_text() + "no_such_setting = 1\n")
    with pytest.raises(ServerError, match="no_such_setting"):
        postgres.start()
    config.write_text(config.read_text().replace("no_such_setting = 1\n", ""))
    postgres.start()


def test_waits_for_a_command_that_was_interrupted(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    pid = postgres.status().pid
    pid_file = postgres.status().data_dir / "postmaster.pid"
    # It stops as soon as the last session has gone; the state in the file is "stopping".
    connection = psycopg.connect(postgres.url())
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    while "stopping" not in pid_file.read_text():
        pass
    assert not postgres.status().running
    postgres.start()
    assert postgres.status().pid != pid
    connection.close()
