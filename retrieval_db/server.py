"""The embedded PostgreSQL: a server of one's own, in a folder, that starts by itself.

A home folder holds everything:

    data-18/        the data directory, named after PostgreSQL's major version
    socket/         the Unix socket; only the server's account can enter
    settings.conf   sized to the machine, rewritten at every start
    postgres.log    what the server says
    lock            held by the command that starts, stops or upgrades
    running         held (flock) by the server's processes for as long as there is one

The server listens on no network address. Whoever can enter `socket/` is trusted, and that is
the account that owns the data, and root. It keeps running until `Server.stop`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs
import psutil
from filelock import FileLock, Timeout

from . import installation, sizing
from .errors import ServerError
from .installation import Account, Installation, run

DATABASE = "retrieval"
SUPERUSER = "postgres"
PORT = 5432
"""Part of the socket's name only."""

_SOCKET_PREFIX = "retrieval-db-"
_PATIENCE = 5.0
"""Seconds between messages while something takes long."""

Notify = Callable[[str], None]


def default_home() -> Path:
    """Where the embedded PostgreSQL lives: RETRIEVAL_DB_HOME, or the user's data folder."""
    if home := os.environ.get("RETRIEVAL_DB_HOME"):
        return Path(home).expanduser()
    if sys.platform != "win32" and os.geteuid() == 0:
        # Not below /root: the server's account must be able to get there.
        return Path("/var/lib/retrieval-db")
    return platformdirs.user_data_path("retrieval-db", appauthor=False)


def to_stderr(message: str) -> None:
    """Show a message to a person."""
    print(message, file=sys.stderr, flush=True)


@dataclass(frozen=True)
class ServerStatus:
    """What is known of an embedded server.

    Args:
        running: it accepts connections.
        pid: the server's main process, None if there is none.
        version: PostgreSQL's version, such as `18.4`.
        data_version: the major version that the data belong to, None before the first start;
            another one than `version`'s asks for `Server.upgrade`.
        home: the folder of everything.
        data_dir: the data directory.
        socket_dir: the folder of the Unix socket, None if the server does not run.
        port: the number in the socket's name, None if the server does not run.
        log: the server's log file.
        size: bytes in the data directory.
    """

    running: bool
    pid: int | None
    version: str
    data_version: int | None
    home: Path
    data_dir: Path
    socket_dir: Path | None
    port: int | None
    log: Path
    size: int


@dataclass(frozen=True)
class _PidFile:
    """What PostgreSQL writes into `postmaster.pid`."""

    pid: int
    port: int
    socket_dir: Path
    state: str

    @classmethod
    def read(cls, data_dir: Path) -> _PidFile | None:
        try:
            lines = os.fsdecode((data_dir / "postmaster.pid").read_bytes()).split("\n")
            lines += [""] * (8 - len(lines))
            return cls(int(lines[0]), int(lines[3] or 0), Path(lines[4]), lines[7].strip())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        except OSError as error:
            raise ServerError(f"The database in {data_dir} cannot be read: {error}.") from error


class Server:
    """An embedded PostgreSQL server.

    Args:
        home: its folder; by default `default_home()`.
        major: PostgreSQL's major version; by default the newest that is installed.
        notify: is told, in words, what takes long; by default they go to stderr.
    """

    def __init__(
        self, home: Path | None = None, *, major: int | None = None, notify: Notify = to_stderr
    ) -> None:
        self.home = (home or default_home()).expanduser().resolve()
        self.log = self.home / "postgres.log"
        self._major = major
        self._notify = notify

    # What there is

    @property
    def data_dir(self) -> Path:
        """The data directory of the installed PostgreSQL, whether or not it exists yet."""
        return self.home / f"data-{self._installation().major}"

    def status(self) -> ServerStatus:
        """Look, and change nothing.

        Raises:
            ServerError: no PostgreSQL is installed, or the folder is another user's.
        """
        majors = self._data_majors()
        data_dir = self.home / f"data-{majors[-1]}" if majors else self.data_dir
        found = self._postmaster(data_dir)
        ready = found is not None and found.state == "ready"
        return ServerStatus(
            running=ready,
            pid=found.pid if found else None,
            version=self._installation().version,
            data_version=majors[-1] if majors else None,
            home=self.home,
            data_dir=data_dir,
            socket_dir=found.socket_dir if found and ready else None,
            port=found.port if found and ready else None,
            log=self.log,
            size=_size(data_dir),
        )

    def url(self, database: str = DATABASE) -> str:
        """The URL of a database, for psql, psycopg and every other client of libpq.

        Raises:
            ServerError: the server does not run.
        """
        found = self._postmaster(self.data_dir)
        if found is None or found.state != "ready":
            raise ServerError(
                "The embedded PostgreSQL is not running. Start it with `retrieval-db db start`."
            )
        host = quote(os.fsencode(found.socket_dir), safe="")
        return f"postgresql://{SUPERUSER}@/{quote(database, safe='')}?host={host}&port={found.port}"

    def shell_command(self, database: str = DATABASE) -> list[str]:
        """The command line of psql for a database of the running server.

        Raises:
            ServerError: the server does not run.
        """
        return [str(self._installation().program("psql")), self.url(database)]

    # Start and stop

    def start(self) -> None:
        """Start the server, unless it runs, creating the database `retrieval` the first time.

        Safe to call from many processes at once. A long crash recovery is waited for.

        Raises:
            ServerError: it cannot; the message says what to do, and has the end of the log.
        """
        if self._is_ready():
            return
        account = self._prepare_home()
        programs = installation.readable(self._installation(), account, self.home)
        with self._locked(account):
            if self._is_ready():
                return
            self._refuse_other_major()
            if not self.data_dir.exists():
                self._notify(f"Creating a PostgreSQL {programs.version} database in {self.home}")
                with self._new_data_dir(programs, account) as new:
                    _create_database(programs, account, new)
            self._write_settings(account)
            self._launch(programs, account)

    def stop(self) -> None:
        """Stop the server; connections are closed, transactions in progress rolled back.

        Does nothing if it does not run.

        Raises:
            ServerError: the server belongs to another user.
        """
        for data_dir in [self.home / f"data-{major}" for major in self._data_majors()]:
            if self._postmaster(data_dir) is not None:
                with self._locked(self._account()):
                    self._terminate(data_dir)

    def upgrade(self) -> Path | None:
        """Bring data of an older major version to the installed one, and start the server.

        The old data directory is left as it was, so that there must be room for both.

        Returns:
            The old data directory, which may be deleted; None if there was nothing to upgrade.

        Raises:
            ServerError: it cannot; the old data are untouched.
        """
        account = self._prepare_home()
        with self._locked(account):
            majors = self._data_majors()
            major = self._installation().major
            if majors and majors[-1] < major:
                old = majors[-1]
                self._notify(f"Upgrading {self.home} from PostgreSQL {old} to {major}")
                self._upgrade(old, account)
            else:
                old = None
        self.start()
        if old is None:
            return None
        self._refresh_statistics(account)
        return self.home / f"data-{old}"

    # The folder

    def _installation(self) -> Installation:
        return self._installed(self._major)

    def _installed(self, major: int | None) -> Installation:
        found = installation.installations()
        if major is not None and major not in found:
            raise ServerError(
                f"PostgreSQL {major} is needed, but the package {installation.DISTRIBUTION} "
                f"has only {', '.join(map(str, sorted(found)))}. Install a version of it that "
                f"has both, or move the data with pg_dump and --database."
            )
        return found[max(found) if major is None else major]

    def _data_majors(self) -> list[int]:
        try:
            names = [path.name for path in self.home.glob("data-*")]
        except OSError as error:
            raise ServerError(
                f"The folder {self.home} cannot be read: {error.strerror}."
            ) from error
        majors = [name.removeprefix("data-") for name in names]
        return sorted(int(major) for major in majors if major.isdecimal())

    def _refuse_other_major(self) -> None:
        major, majors = self._installation().major, self._data_majors()
        if majors and majors[-1] < major:
            raise ServerError(
                f"The data in {self.home} were written by PostgreSQL {majors[-1]}, and this is "
                f"PostgreSQL {major}. Convert them with `retrieval-db db upgrade`."
            )
        if majors and majors[-1] > major:
            raise ServerError(
                f"The data in {self.home} were written by PostgreSQL {majors[-1]}, and this is "
                f"PostgreSQL {major}. `retrieval-db db upgrade` only goes forward: upgrade the "
                f"program (`pip install -U {installation.DISTRIBUTION}`), or choose another "
                "folder with RETRIEVAL_DB_HOME."
            )

    def _account(self) -> Account:
        """The account that owns the data, or will."""
        me = os.geteuid()
        owner = None
        for major in self._data_majors():
            owner = (self.home / f"data-{major}").stat().st_uid
        if me != 0:
            if owner is not None and owner != me:
                name = installation.account_of(owner).name
                raise ServerError(
                    f"The database in {self.home} belongs to the user {name}. Choose another "
                    "folder with RETRIEVAL_DB_HOME, or name a database with --database."
                )
            return installation.account_of(me)
        if owner is None and self.home.exists():
            owner = self.home.stat().st_uid
        return installation.account_of(owner) if owner else installation.server_account()

    def _prepare_home(self) -> Account:
        self._installation()
        try:
            if not self.home.exists():
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.geteuid() == 0:
                    self.home.chmod(0o755)
            elif not self.home.is_dir():
                raise NotADirectoryError(20, "it is not a folder")
            if not os.access(self.home, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "it cannot be written")
        except OSError as error:
            raise ServerError(
                f"The folder {self.home} cannot be used for the embedded PostgreSQL: "
                f"{error.strerror}. Choose another one with RETRIEVAL_DB_HOME, or name a "
                "database of your own with --database."
            ) from error
        account = self._account()
        if not account.may_enter(self.home):
            raise ServerError(
                f"PostgreSQL does not run as root but as the user {account.name}, who cannot "
                f"enter {self.home}. Choose a folder with RETRIEVAL_DB_HOME that this user can "
                "reach, such as /var/lib/retrieval-db."
            )
        return account

    @contextlib.contextmanager
    def _locked(self, account: Account) -> Iterator[None]:
        lock = FileLock(self.home / "lock")
        while True:
            try:
                lock.acquire(timeout=_PATIENCE)
                break
            except Timeout:
                self._notify("Another command starts or stops the database; waiting for it")
            except OSError as error:
                raise ServerError(
                    f"The folder {self.home} cannot be locked: {error}. "
                    "Choose another one with RETRIEVAL_DB_HOME."
                ) from error
        try:
            account.give(self.home / "lock")
            yield
        finally:
            lock.release()

    # The data directory

    @contextlib.contextmanager
    def _new_data_dir(
        self, programs: Installation, account: Account, *options: str
    ) -> Iterator[Path]:
        """A new, empty cluster; it gets its name when the block ends well, else it is removed."""
        new = self.home / f"data-{programs.major}.new"
        shutil.rmtree(new, ignore_errors=True)
        try:
            new.mkdir(mode=0o700)
            account.give(new)
            # A built-in locale sorts alike everywhere, so that no upgrade of the operating
            # system can break an index on text.
            if programs.major >= 17:
                locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", "--locale=C"]
            else:
                locale = ["--locale=C"]
            initdb = [str(programs.program("initdb")), "--pgdata", str(new)]
            initdb += ["--username", SUPERUSER]
            auth = ["--auth-local=trust", "--auth-host=reject", "--encoding=UTF8"]
            run([*initdb, *auth, *locale, *(options or ["--data-checksums"])], account, self.home)
            with (new / "postgresql.conf").open("a") as file:
                file.write("\ninclude_if_exists = '../settings.conf'\n")
            yield new
            new.rename(self.home / f"data-{programs.major}")
        except OSError as error:
            raise ServerError(
                f"The database in {self.home} cannot be created: {error.strerror}."
                f"{installation.cure(error.strerror or '')}"
            ) from error
        finally:
            shutil.rmtree(new, ignore_errors=True)

    def _write_settings(self, account: Account) -> None:
        values = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": '"{}"'.format(
                str(self._socket_dir(account)).replace('"', '""')
            ),
            "unix_socket_permissions": "0700",
            "log_line_prefix": "%m [%p] ",
        } | sizing.settings(sizing.Machine.here(self.home))
        text = sizing.text(
            values,
            "Written at every start of the embedded PostgreSQL, for this machine.\n"
            "Your own settings: ALTER SYSTEM SET …, which wins over this file.",
        )
        file = self.home / "settings.conf"
        partial = file.with_suffix(".partial")
        partial.write_bytes(os.fsencode(text))
        account.give(partial)
        partial.replace(file)

    def _socket_dir(self, account: Account) -> Path:
        """Where the socket goes: in the home, or in a temporary folder if that cannot be.

        A socket's path has at most 107 bytes, some file systems have no sockets, and libpq
        splits a host at commas. The server's pid file tells every client which folder it is.
        """
        folder = self.home / "socket"
        folder.mkdir(mode=0o700, exist_ok=True)
        account.give(folder)
        if not set(str(folder)) & set(",\n"):
            probe = folder / ".s.PGSQL.test"  # as long as the real name
            with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as unix:
                unix.bind(os.fsencode(probe))
                probe.unlink()
                return folder
        temporary = Path(tempfile.mkdtemp(prefix=_SOCKET_PREFIX))
        account.give(temporary)
        return temporary

    def _remove_socket_dir(self, folder: Path, account: Account) -> None:
        if folder.name.startswith(_SOCKET_PREFIX) and folder != self.home / "socket":
            with contextlib.suppress(OSError):
                if folder.lstat().st_uid == account.uid:
                    shutil.rmtree(folder)

    # The process

    def _is_ready(self) -> bool:
        found = self._postmaster(self.data_dir)
        return found is not None and found.state == "ready"

    def _postmaster(self, data_dir: Path) -> _PidFile | None:
        """The pid file of a server that really runs on this data directory.

        The file outlives a crash, and its pid may by now be another program's.
        """
        found = _PidFile.read(data_dir)
        if found is None or not _serves(found.pid, data_dir):
            return None
        return found

    def _launch(self, programs: Installation, account: Account) -> None:
        found = self._postmaster(self.data_dir)
        if found is not None and found.state == "stopping":
            self._terminate(self.data_dir)
            found = None
        if found is not None:  # a command that was interrupted has started it
            self._wait_until_ready(found.pid, 0)
            return
        self._clear_leftovers(account)
        if self.log.exists() and self.log.stat().st_size > 10 * sizing.MB:
            self.log.replace(self.log.with_suffix(".log.1"))
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW
        log = os.open(self.log, flags, 0o600)
        running = self._hold_running(account)
        try:
            account.give(log)
            begin = os.fstat(log).st_size
            # The shell leaves the server to the system's first process, so that it outlives us
            # and is no zombie afterwards.
            script = '"$0" "$@" >&2 & echo $!'
            started = subprocess.run(
                ["/bin/sh", "-c", script, programs.program("postgres"), "-D", self.data_dir],
                cwd=self.home,
                env=installation.environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                pass_fds=(running,),
                start_new_session=True,
                check=True,
                **account.switch(),
            )
        finally:
            os.close(log)
            os.close(running)
        self._wait_until_ready(int(started.stdout), begin)

    def _wait_until_ready(self, pid: int, log_begin: int) -> None:
        tell = _Reminder(self._notify)
        while True:
            # Dead first, ready second: a server that was ready and died must not count.
            alive = _is_alive(pid)
            found = _PidFile.read(self.data_dir)
            if alive and found is not None and found.pid == pid and found.state == "ready":
                return
            said = self._log_since(log_begin)
            if not alive:
                raise ServerError(
                    f"The embedded PostgreSQL did not start. The end of {self.log}:\n"
                    f"{installation.tail(said)}{installation.cure(said)}"
                )
            last = said.strip().splitlines()[-1:] or [""]
            tell(f"Waiting for the database; it says: {last[0]}")
            time.sleep(0.02)

    def _log_since(self, begin: int) -> str:
        with contextlib.suppress(OSError), self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(begin, size - 10_000))
            return file.read().decode("utf-8", "replace")
        return ""

    def _hold_running(self, account: Account) -> int:
        """A lock that the server's processes inherit and hold for as long as they live.

        It shows a server that no pid can, in another container on the same folder.
        """
        import fcntl

        file = os.open(self.home / "running", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        account.give(file)
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() < deadline:
                    time.sleep(0.05)
                    continue
                os.close(file)
                raise ServerError(
                    f"The database in {self.home} is in use by a server that cannot be seen from "
                    "here; it may run in another container. Stop it there, or choose another "
                    "folder with RETRIEVAL_DB_HOME."
                ) from None
            except OSError:
                pass  # a file system without locks; PostgreSQL's own checks remain
            return file

    def _clear_leftovers(self, account: Account) -> None:
        """After a crash: end processes that outlived their server, and drop what it left."""
        leftovers = _processes_of(self.data_dir)
        for process in leftovers:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(signal.SIGQUIT)
        _, alive = psutil.wait_procs(leftovers, timeout=30)
        if alive:
            raise ServerError(
                "Processes of a crashed PostgreSQL still use the database in "
                f"{self.home} and do not end: {', '.join(str(p.pid) for p in alive)}. "
                "End them (kill -9), then try again."
            )
        found = _PidFile.read(self.data_dir)
        if found is not None:
            self._remove_socket_dir(found.socket_dir, account)
            if psutil.pid_exists(found.pid):
                # PostgreSQL would believe that the other program is its server.
                (self.data_dir / "postmaster.pid").unlink(missing_ok=True)

    def _terminate(self, data_dir: Path) -> None:
        found = self._postmaster(data_dir)
        if found is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(found.pid, signal.SIGINT)  # PostgreSQL's "fast" shutdown
        tell = _Reminder(self._notify)
        while _serves(found.pid, data_dir):
            tell("Waiting for the database to write everything and stop")
            time.sleep(0.02)
        self._remove_socket_dir(found.socket_dir, self._account())

    # Upgrade

    def _upgrade(self, old_major: int, account: Account) -> None:
        old = self.home / f"data-{old_major}"
        free, needed = shutil.disk_usage(self.home).free, _size(old)
        if free < needed + 200 * sizing.MB:
            raise ServerError(
                f"The upgrade needs {needed // sizing.MB + 200} MB on the disk of {self.home}, "
                f"and {free // sizing.MB} MB are free. Free some, or move the folder."
            )
        before = installation.readable(self._installed(old_major), account, self.home)
        after = installation.readable(self._installation(), account, self.home)
        self._shut_down_cleanly(before, account)
        control = run([before.program("pg_controldata"), old], account, self.home)
        has_checksums = "Data page checksum version:           0" not in control
        if has_checksums:
            options = ["--data-checksums"]
        else:
            options = ["--no-data-checksums"] if after.major >= 18 else ["--allow-group-access"]
        work = self.home / "upgrade"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        account.give(work)
        try:
            with self._new_data_dir(after, account, *options) as new:
                self._write_settings(account)
                run(
                    [
                        after.program("pg_upgrade"),
                        *("--old-bindir", before.root / "bin", "--new-bindir", after.root / "bin"),
                        *("--old-datadir", old, "--new-datadir", new),
                        *("--socketdir", self._socket_dir(account), "--username", SUPERUSER),
                        *("--jobs", str(os.cpu_count() or 1)),
                    ],
                    account,
                    work,
                )
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _shut_down_cleanly(self, programs: Installation, account: Account) -> None:
        """pg_upgrade refuses data that need crash recovery; the old version does it."""
        older = Server(self.home, major=programs.major, notify=self._notify)
        older._write_settings(account)
        older._launch(programs, account)
        older._terminate(older.data_dir)

    def _refresh_statistics(self, account: Account) -> None:
        programs = installation.readable(self._installation(), account, self.home)
        vacuumdb = [str(programs.program("vacuumdb")), "--all", "--analyze-only"]
        run([*vacuumdb, "--dbname", self.url("postgres")], account, self.home)


def _create_database(programs: Installation, account: Account, data_dir: Path) -> None:
    # Without a server, so that the data directory is complete before anybody can see it.
    single = [str(programs.program("postgres")), "--single", "-D", str(data_dir), "postgres"]
    run(single, account, data_dir.parent, stdin=f'CREATE DATABASE "{DATABASE}"\n')


class _Reminder:
    """Passes a message on every few seconds."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._next = time.monotonic() + _PATIENCE

    def __call__(self, message: str) -> None:
        if time.monotonic() >= self._next:
            self._notify(message)
            self._next = time.monotonic() + _PATIENCE


def _is_alive(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def _serves(pid: int, data_dir: Path) -> bool:
    """Whether a process is a PostgreSQL that works in a data directory."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE or process.name() != "postgres":
            return False
        # PostgreSQL's processes work in their data directory.
        return process.cwd() in (str(data_dir), f"{data_dir} (deleted)")
    except psutil.NoSuchProcess:
        return False
    except psutil.AccessDenied:
        return True


def _processes_of(data_dir: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter(["name"]):
        with contextlib.suppress(psutil.Error):
            if process.info["name"] == "postgres" and process.cwd() in (
                str(data_dir),
                f"{data_dir} (deleted)",
            ):
                found.append(process)
    return found


def _size(folder: Path) -> int:
    """Bytes of all files in a folder, of which some may vanish meanwhile."""
    total = 0
    for path, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(path) / name).lstat().st_size
    return total
