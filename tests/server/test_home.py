"""The folder of the embedded server: any name, nobody else's, and with room in it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import psutil
import pytest

from retrieval_db import server
from retrieval_db.errors import ServerError
from tests.server.servers import MakeServer, ask, kill, needs_root

LONG = "/".join(["a-long-name-for-a-folder"] * 6)


@pytest.mark.parametrize(
    "name", ["with space", "quote'and\"", "a,comma", "$HOME`x`\\", "ünïcode", "per%cent", LONG]
)
def test_names_of_folders(make_server: MakeServer, name: str) -> None:
    postgres = make_server(name, new=True)
    postgres.start()
    url = postgres.url()
    assert ask(url, "SHOW data_directory") == str(postgres.status().data_dir)
    done = subprocess.run(
        [*postgres.shell_command(), "-Atc", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_a_temporary_socket_folder_goes_with_the_server(make_server: MakeServer) -> None:
    postgres = make_server(LONG)
    postgres.start()
    first = postgres.status().socket_dir
    assert first is not None
    assert first.parent != postgres.home
    kill(postgres)
    postgres.start()
    second = postgres.status().socket_dir
    assert second is not None
    assert not first.exists()
    postgres.stop()
    assert not second.exists()


def test_nobody_else_may_enter(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    status = postgres.status()
    assert status.socket_dir is not None
    assert status.pid is not None
    owner = psutil.Process(status.pid).uids().effective
    assert owner != 0
    for private in (status.data_dir, status.socket_dir):
        assert private.stat().st_mode & 0o777 == 0o700
        assert private.stat().st_uid == owner


def test_a_file_where_the_folder_should_be(make_server: MakeServer, folder: Path) -> None:
    (folder / "home").write_text("")
    with pytest.raises(ServerError, match=r"RETRIEVAL_DB_HOME.*--database"):
        make_server(new=True).start()
    with pytest.raises(ServerError, match=r"RETRIEVAL_DB_HOME.*--database"):
        make_server("home/below", new=True).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(make_server: MakeServer, folder: Path) -> None:
    (folder / "home").mkdir(mode=0o500)
    with pytest.raises(ServerError, match=r"cannot be written.*RETRIEVAL_DB_HOME"):
        make_server(new=True).start()


@needs_root
def test_a_folder_that_the_servers_account_cannot_enter(
    make_server: MakeServer, folder: Path
) -> None:
    (folder / "private").mkdir(mode=0o700)
    with pytest.raises(ServerError, match=r"cannot enter.*RETRIEVAL_DB_HOME"):
        make_server("private/home", new=True).start()
    assert (folder / "private").stat().st_mode & 0o777 == 0o700


def test_a_full_disk(make_server: MakeServer, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        postgres = make_server("small/home", new=True)
        with pytest.raises(ServerError, match=r"disk is full.*RETRIEVAL_DB_HOME"):
            postgres.start()
        assert not list(postgres.home.glob("data-*"))  # nothing half done
    finally:
        subprocess.run(["umount", small], check=True)


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_HOME", "~/elsewhere")
    assert server.default_home() == Path("~/elsewhere").expanduser()
    monkeypatch.delenv("RETRIEVAL_DB_HOME")
    assert server.default_home().name == "retrieval-db"
