"""What tests do with embedded servers."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from retrieval_db.server import Server
from tests.conftest import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

MakeServer = Callable[..., Server]


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def is_alive(pid: int) -> bool:
    """Whether it runs; ended processes stay listed until the system's first process sees them."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(postgres: Server) -> int:
    """End the server's main process like a power failure would; its pid."""
    pid = postgres.status().pid
    assert pid is not None
    psutil.Process(pid).kill()
    while is_alive(pid):
        pass
    return pid


def fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")


START = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import psycopg
    from retrieval_db.server import Server

    postgres = Server(Path(sys.argv[1]))
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        print(postgres.status().pid)
    """
)


def start_elsewhere(home: Path, user: int | None = None) -> subprocess.Popen[str]:
    """Start the server from a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, home],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
    )
