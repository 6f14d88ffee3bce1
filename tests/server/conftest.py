"""Embedded servers in folders of their own, stopped afterwards."""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from retrieval_db.errors import ServerError
from retrieval_db.server import Server
from tests.server.servers import MakeServer


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that the server's account can enter, unlike pytest's own."""
    found = Path(tempfile.mkdtemp(prefix="retrieval-test-")).resolve()
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture(scope="session")
def after_first_start() -> Iterator[Path]:
    """The data directory of a server that was started and stopped."""
    home = Path(tempfile.mkdtemp(prefix="retrieval-test-")).resolve()
    home.chmod(0o755)
    first = Server(home, notify=lambda message: None)
    first.start()
    first.stop()
    yield first.status().data_dir
    shutil.rmtree(home)


@pytest.fixture
def make_server(folder: Path, request: pytest.FixtureRequest) -> Iterator[MakeServer]:
    """Makes servers with a home of this name in the test's folder, and stops them afterwards.

    To save time their data directories are copies, unless they are `new`.
    """
    made = []

    def make(name: str = "home", *, new: bool = False, major: int | None = None) -> Server:
        home = folder / name
        if not new and major is None and not home.exists():
            home.mkdir(parents=True)
            data_dir = request.getfixturevalue("after_first_start")
            subprocess.run(["cp", "-a", data_dir, home], check=True)
        made.append(Server(home, major=major, notify=lambda message: None))
        return made[-1]

    yield make
    for each in made:
        with contextlib.suppress(ServerError):
            each.stop()
