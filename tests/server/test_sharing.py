"""One embedded server and several programs and users at once."""

from __future__ import annotations

import os
import pwd
import warnings
from collections.abc import Callable
from pathlib import Path

import psutil

from retrieval_db.server import installation
from tests.server.servers import MakeServer, ask, needs_root, start_elsewhere


def test_many_first_starts_at_once(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    commands = [start_elsewhere(postgres.home) for _ in range(6)]
    answers = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0] * 6, answers
    assert {said for said, _ in answers} == {f"{postgres.status().pid}\n"}
    # It outlives the commands, one of which created it.
    assert ask(postgres.url(), "SELECT 1") == 1
    assert len([errors for _, errors in answers if "Creating" in errors]) == 1


@needs_root
def test_two_users(make_server: MakeServer, folder: Path) -> None:
    theirs, ours = make_server("theirs", new=True), make_server("ours")
    other = installation.account_of(pwd.getpwnam("nobody").pw_uid)
    theirs.home.mkdir()
    os.chown(theirs.home, other.uid, other.gid)

    ours.start()
    for act in (ours.start, ours.stop, ours.url, ours.status, ours.upgrade):
        assert "RETRIEVAL_DB_HOME" in as_user(other, act)
    assert ours.status().running

    assert as_user(other, theirs.start) == ""
    # Root uses, stops and starts what belongs to another user, as that user.
    assert ask(theirs.url(), "SELECT 1") == 1
    theirs.stop()
    theirs.start()
    pid = theirs.status().pid
    assert pid is not None
    assert psutil.Process(pid).uids().effective == other.uid
    assert as_user(other, theirs.stop) == ""
    assert not theirs.status().running


def as_user(account: installation.Account, act: Callable[[], object]) -> str:
    """Call something as another user; the message of its error, or nothing."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        # A new interpreter would have to be readable for that user.
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            act()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()
