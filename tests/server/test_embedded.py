"""The usual life of the embedded server; every test starts a real one."""

from __future__ import annotations

import os
import subprocess

import psycopg
import pytest

from retrieval_db.errors import ServerError
from tests.server.servers import MakeServer, ask, fill, is_alive


def test_before_the_first_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    status = postgres.status()
    assert not status.running
    assert (status.pid, status.data_version, status.socket_dir, status.port) == (None,) * 4
    assert status.size == 0
    assert not postgres.home.exists()  # looking changes nothing
    with pytest.raises(ServerError, match="db start"):
        postgres.url()
    assert not postgres.stop()


def test_start_use_stop_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    postgres.start()
    fill(postgres.url())
    status = postgres.status()
    assert status.running
    assert status.pid is not None
    assert status.version.startswith(f"{status.data_version}.")
    assert status.data_dir == postgres.home / f"data-{status.data_version}"
    assert status.size > 1_000_000

    assert postgres.stop()
    stopped = postgres.status()
    assert not stopped.running
    assert stopped.pid is None
    assert stopped.data_version == status.data_version
    assert not is_alive(status.pid)

    postgres.start()
    assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000


def test_a_second_start_finds_the_first(make_server: MakeServer) -> None:
    first, second = make_server(), make_server()
    first.start()
    second.start()
    assert second.status() == first.status()
    assert ask(second.url(), "SELECT current_database()") == "retrieval"


def test_psql_and_psycopg_take_the_url(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    query = "SELECT current_setting('listen_addresses') || '|' || current_user"
    done = subprocess.run(
        [*postgres.shell_command(), "--no-psqlrc", "--tuples-only", "--no-align", "-c", query],
        capture_output=True,
        text=True,
        # What a user's environment may say about other servers does not matter.
        env=os.environ | {"PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "nobody"},
        check=True,
    )
    assert done.stdout.strip() == "|postgres" == ask(postgres.url(), query)


def test_durable_and_sorting_alike_everywhere(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    url = postgres.url()
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert ask(url, f"SHOW {setting}") == "on"
    assert ask(url, "SHOW server_encoding") == "UTF8"
    query = "SELECT concat(datlocprovider, datlocale) FROM pg_database WHERE datname = 'retrieval'"
    assert ask(url, query) == "bC.UTF-8"


def test_the_extension_vector_is_there(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE EXTENSION vector")


def test_own_settings_win(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET work_mem = '7MB'")
    postgres.stop()
    postgres.start()
    assert ask(postgres.url(), "SHOW work_mem") == "7MB"
