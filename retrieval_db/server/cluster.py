"""One data directory of PostgreSQL: making it, starting a server on it, finding that server.

PostgreSQL's own tools for this (`pg_ctl`) trust a pid file that outlives a crash, give up after
a minute, and put paths on a shell's command line; hence processes are looked at here.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from ..errors import ServerError
from . import installation
from .installation import Account, Installation, run

SUPERUSER = "postgres"
PATIENCE = 5.0
"""Seconds between messages while something takes long."""

Notify = Callable[[str], None]


@dataclass(frozen=True)
class Postmaster:
    """A server's main process, as its `postmaster.pid` describes it."""

    pid: int
    port: int
    socket_dir: Path
    state: str

    @property
    def is_ready(self) -> bool:
        """Whether it accepts connections."""
        return self.state == "ready"


@dataclass(frozen=True)
class Cluster:
    """A data directory, whether or not it exists and has a server."""

    path: Path

    def postmaster(self) -> Postmaster | None:
        """The server that works on this directory, None if there is none.

        Raises:
            ServerError: the directory is closed to this user.
        """
        found = self._pid_file()
        # The file outlives a crash, and its pid may by now be another program's.
        return found if found is not None and self._is_worked_on_by(found.pid) else None

    def size(self) -> int:
        """Bytes of all files, of which some may vanish meanwhile."""
        total = 0
        for folder, _, names in os.walk(self.path):
            for name in names:
                with contextlib.suppress(OSError):
                    total += (Path(folder) / name).lstat().st_size
        return total

    def has_checksums(self, programs: Installation, account: Account) -> bool:
        """Whether its pages carry checksums."""
        command = [programs.program("pg_controldata"), self.path]
        said = run(command, account, self.path.parent)
        return re.search(r"page checksum version: *0", said) is None

    @contextlib.contextmanager
    def created(
        self, programs: Installation, account: Account, *, checksums: bool = True
    ) -> Iterator[Cluster]:
        """Make it under a temporary name; it gets its own when the block ends well.

        Raises:
            ServerError: it cannot be made, and nothing is left of it.
        """
        new = Cluster(self.path.with_name(f"{self.path.name}.new"))
        shutil.rmtree(new.path, ignore_errors=True)
        try:
            new.path.mkdir(mode=0o700)
            account.give(new.path)
            initdb = [str(programs.program("initdb")), "--pgdata", str(new.path)]
            initdb += ["--username", SUPERUSER, "--auth-local=trust", "--auth-host=reject"]
            initdb += ["--encoding=UTF8", "--locale=C"]
            if programs.major >= 17:
                # Sorts alike everywhere: no upgrade of the system can break an index on text.
                initdb += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
            if checksums:
                initdb += ["--data-checksums"]
            elif programs.major >= 18:
                initdb += ["--no-data-checksums"]
            run(initdb, account, self.path.parent)
            with (new.path / "postgresql.conf").open("a") as file:
                file.write("\ninclude_if_exists = '../settings.conf'\n")
            yield new
            new.path.rename(self.path)
        except OSError as error:
            raise ServerError(
                f"The database {self.path} cannot be created: {error.strerror}."
                f"{installation.cure(str(error))}"
            ) from error
        finally:
            shutil.rmtree(new.path, ignore_errors=True)

    def create_database(self, name: str, programs: Installation, account: Account) -> None:
        """Create a database while there is no server."""
        single = [str(programs.program("postgres")), "--single", "-D", str(self.path)]
        command = f'CREATE DATABASE "{name}"\n'
        run([*single, "postgres"], account, self.path.parent, stdin=command)

    def start(
        self,
        programs: Installation,
        account: Account,
        *,
        log: Path,
        inherited: Sequence[int],
        notify: Notify,
    ) -> None:
        """Start a server, and wait until it accepts connections, however long it recovers.

        Args:
            log: what the server says is appended to this file.
            inherited: open files that the server's processes keep open.

        Raises:
            ServerError: it ended before; the message has the end of the log.
        """
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        file = os.open(log, flags, 0o600)
        try:
            account.give(file)
            begin = os.fstat(file).st_size
            # The shell leaves the server to the system's first process, so that it outlives us
            # and is no zombie afterwards.
            script = '"$0" "$@" >&2 & echo $!'
            started = subprocess.run(
                ["/bin/sh", "-c", script, programs.program("postgres"), "-D", self.path],
                cwd=self.path.parent,
                env=installation.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=file,
                pass_fds=inherited,
                start_new_session=True,
                check=True,
                **account.switch(),
            )
        except OSError as error:
            raise ServerError(f"{self.path}: no server can be started there: {error}.") from error
        finally:
            os.close(file)
        self.wait_until_ready(int(started.stdout), log, begin, notify)

    def wait_until_ready(self, pid: int, log: Path, begin: int, notify: Notify) -> None:
        """Wait until a server that was started accepts connections.

        Args:
            begin: where in the log this server's words begin, in bytes.

        Raises:
            ServerError: it ended; the message has the end of the log.
        """
        remind = _Reminder(notify)
        while True:
            # In this order, because a server may become ready and end in between.
            alive = _is_alive(pid)
            found = self._pid_file()
            if alive and found is not None and found.pid == pid and found.is_ready:
                return
            said = _end_of(log, begin)
            if not alive:
                raise ServerError(
                    f"The embedded PostgreSQL did not start. The end of {log}:\n"
                    f"{installation.tail(said)}{installation.cure(said)}"
                )
            last = said.strip().splitlines()[-1:] or [""]
            remind(f"Waiting for the database; it says: {last[0]}")
            time.sleep(0.02)

    def stop(self, notify: Notify) -> None:
        """Stop the server, if there is one, and wait until it has written everything."""
        found = self.postmaster()
        if found is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGINT)  # PostgreSQL's "fast" shutdown
        remind = _Reminder(notify)
        while self._is_worked_on_by(found.pid):
            remind("Waiting for the database to write everything and stop")
            time.sleep(0.02)

    def end_leftovers(self) -> None:
        """After a crash: end the processes that outlived their server.

        Raises:
            ServerError: one of them does not end.
        """
        processes = [
            process
            for process in psutil.process_iter()
            if self._is_worked_on_by(process.pid, unknown=False)
        ]
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGQUIT)
        deadline = time.monotonic() + 60
        for process in processes:
            while self._is_worked_on_by(process.pid, unknown=False):
                if time.monotonic() > deadline:
                    raise ServerError(
                        f"The process {process.pid} of a crashed PostgreSQL still uses "
                        f"{self.path} and does not end. End it (kill -9), then try again."
                    )
                time.sleep(0.02)

    def forget_postmaster(self) -> Postmaster | None:
        """After a crash: drop a pid that misleads PostgreSQL; what the pid file said, if any."""
        found = self._pid_file()
        if found is not None and psutil.pid_exists(found.pid):
            # PostgreSQL would believe that the program which has this pid now is its server.
            (self.path / "postmaster.pid").unlink(missing_ok=True)
        return found

    def _pid_file(self) -> Postmaster | None:
        try:
            lines = os.fsdecode((self.path / "postmaster.pid").read_bytes()).split("\n")
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise ServerError(
                f"The database {self.path} cannot be read: {error.strerror}. Choose another "
                "folder with RETRIEVAL_DB_HOME, or name a database with --database."
            ) from error
        lines += [""] * (8 - len(lines))
        try:
            # pid, data directory, start time, port, socket's folder, address, key, state
            return Postmaster(int(lines[0]), int(lines[3]), Path(lines[4]), lines[7].strip())
        except ValueError:  # not all written yet
            return None

    def _is_worked_on_by(self, pid: int, *, unknown: bool = True) -> bool:
        """Whether a process is a PostgreSQL in this directory, where all its processes work."""
        try:
            process = psutil.Process(pid)
            if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
                return False
            return process.cwd() in (str(self.path), f"{self.path} (deleted)")
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:
            return unknown


class _Reminder:
    """Passes a message on every few seconds."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._next = time.monotonic() + PATIENCE

    def __call__(self, message: str) -> None:
        if time.monotonic() >= self._next:
            self._notify(message)
            self._next = time.monotonic() + PATIENCE


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _end_of(log: Path, begin: int) -> str:
    with contextlib.suppress(OSError), log.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(begin, size - 10_000))
        return file.read().decode("utf-8", "replace")
    return ""
