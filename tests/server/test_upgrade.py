"""Data of an older and of a newer PostgreSQL."""

from __future__ import annotations

import os

import psycopg
import pytest

from retrieval_db.errors import ServerError
from retrieval_db.server import installation
from tests.server.servers import MakeServer, ask, fill, kill


def test_old_data_are_refused_then_upgraded(make_server: MakeServer) -> None:
    majors = sorted(installation.installations())
    if len(majors) < 2:
        pytest.skip("the package has one version of PostgreSQL only")
    old, new = make_server("the home", major=majors[0]), make_server("the home", new=True)
    old.start()
    with psycopg.connect(old.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE t AS SELECT i, '[1,2]'::vector AS v FROM generate_series(1, 1000) i"
        )
        connection.execute("CREATE INDEX ON t (i)")
    kill(old)  # an upgrade begins with crash recovery

    with pytest.raises(ServerError, match=r"PostgreSQL 16.*retrieval-db db upgrade"):
        new.start()
    assert new.status().data_version == majors[0]

    assert new.upgrade() == new.home / f"data-{majors[0]}"
    status = new.status()
    assert status.running
    assert status.data_version == majors[-1]
    assert ask(new.url(), "SELECT current_setting('server_version_num')::int / 10000") == majors[-1]
    assert ask(new.url(), "SELECT count(*) FROM t WHERE v = '[1,2]'") == 1000
    assert ask(new.url(), "SELECT reltuples FROM pg_class WHERE relname = 't'") == 1000
    assert sorted(path.name for path in new.home.glob("upgrade*")) == []

    assert new.upgrade() is None
    with pytest.raises(ServerError, match="only goes forward"):
        old.start()


def test_a_failed_upgrade_leaves_the_old_data(make_server: MakeServer) -> None:
    majors = sorted(installation.installations())
    if len(majors) < 2:
        pytest.skip("the package has one version of PostgreSQL only")
    old, new = make_server(major=majors[0]), make_server(new=True)
    old.start()
    fill(old.url())
    with psycopg.connect(old.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        # A library that the new version does not have.
        connection.execute(
            "UPDATE pg_proc SET probin = '$libdir/gone' WHERE probin = '$libdir/vector'"
        )
    with pytest.raises(ServerError, match="pg_upgrade failed"):
        new.upgrade()
    assert new.status().data_version == majors[0]
    assert sorted(path.name for path in new.home.glob("data-*")) == [f"data-{majors[0]}"]
    old.start()
    assert ask(old.url(), "SELECT count(*) FROM t") == 1000


def test_data_of_a_newer_version_are_refused(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    (postgres.home / "data-99").mkdir(parents=True)
    postgres.home.chmod(0o755)
    for path in (postgres.home, postgres.home / "data-99"):
        (
            installation.server_account()
            if os.geteuid() == 0
            else installation.account_of(os.geteuid())
        ).give(path)
    with pytest.raises(ServerError, match="pip install -U"):
        postgres.start()
    assert not list(postgres.home.glob("data-1*"))
