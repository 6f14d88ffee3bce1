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
import socket
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import platformdirs
from filelock import FileLock, Timeout

from ..errors import ServerError
from . import installation, sizing
from .cluster import PATIENCE, SUPERUSER, Cluster, Notify, Postmaster
from .installation import Account, Installation, run

DATABASE = "retrieval"
PORT = 5432
"""Part of the socket's name only."""


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
        version: the installed PostgreSQL's version, such as `18.4`.
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

    def status(self) -> ServerStatus:
        """Look, and change nothing.

        Raises:
            ServerError: no PostgreSQL is installed, or the folder is another user's.
        """
        installed = self._installation()
        majors = self._data_majors()
        cluster = self._cluster(majors[-1] if majors else installed.major)
        found = cluster.postmaster()
        ready = found is not None and found.is_ready
        return ServerStatus(
            running=ready,
            pid=found.pid if found else None,
            version=installed.version,
            data_version=majors[-1] if majors else None,
            home=self.home,
            data_dir=cluster.path,
            socket_dir=found.socket_dir if found and ready else None,
            port=found.port if found and ready else None,
            log=self.log,
            size=cluster.size(),
        )

    def url(self, database: str = DATABASE) -> str:
        """The URL of a database, for psql, psycopg and every other client of libpq.

        Raises:
            ServerError: the server does not run.
        """
        found = self._ready()
        if found is None:
            raise ServerError(
                "The embedded PostgreSQL is not running. Start it with `retrieval-db db start`."
            )
        host = quote(os.fsencode(found.socket_dir), safe="")
        name = quote(database, safe="")
        return f"postgresql://{SUPERUSER}@/{name}?host={host}&port={found.port}"

    def shell_command(self, database: str = DATABASE) -> list[str]:
        """The command line of psql for a database of the running server.

        Raises:
            ServerError: the server does not run.
        """
        return [str(self._installation().program("psql")), self.url(database)]

    def start(self) -> None:
        """Start the server, unless it runs, creating the database `retrieval` the first time.

        Safe to call from many processes at once. A long crash recovery is waited for.

        Raises:
            ServerError: it cannot; the message says what to do, and has the end of the log.
        """
        if self._ready():
            return
        account = self._prepare_home()
        with self._locked(account):
            if self._ready():
                return
            self._refuse_other_major()
            programs = installation.readable(self._installation(), account, self.home)
            cluster = self._cluster(programs.major)
            if not cluster.path.exists():
                self._notify(f"Creating a PostgreSQL {programs.version} database in {self.home}")
                with cluster.created(programs, account) as new:
                    # Before the server, so that nobody sees one without the database.
                    new.create_database(DATABASE, programs, account)
            self._launch(cluster, programs, account)

    def stop(self) -> None:
        """Stop the server; connections are closed, transactions in progress rolled back.

        Does nothing if it does not run.

        Raises:
            ServerError: the server belongs to another user.
        """
        for cluster in map(self._cluster, self._data_majors()):
            if cluster.postmaster() is not None:
                account = self._account()
                with self._locked(account):
                    self._halt(cluster, account)

    def upgrade(self) -> Path | None:
        """Bring data of an older major version to the installed one, and start the server.

        The old data directory is left as it was, so that there must be room for both. Settings
        made with ALTER SYSTEM stay behind in it.

        Returns:
            The old data directory, which may be deleted; None if there was nothing to upgrade.

        Raises:
            ServerError: it cannot; the old data are untouched.
        """
        account = self._prepare_home()
        major = self._installation().major
        with self._locked(account):
            majors = self._data_majors()
            old = majors[-1] if majors and majors[-1] < major else None
            extensions = self._convert(old, major, account) if old is not None else ""
        self.start()
        if old is None:
            return None
        programs = installation.readable(self._installation(), account, self.home)
        psql, vacuumdb = str(programs.program("psql")), str(programs.program("vacuumdb"))
        url = self.url("postgres")
        run([psql, "--no-psqlrc", url], account, self.home, stdin=extensions)
        run([vacuumdb, "--all", "--analyze-only", "--maintenance-db", url], account, self.home)
        return self._cluster(old).path

    # The folder

    def _installation(self, major: int | None = None) -> Installation:
        found = installation.installations()
        major = major or self._major or max(found)
        if major not in found:
            raise ServerError(
                f"PostgreSQL {major} is needed, but the package {installation.DISTRIBUTION} "
                f"has only {' and '.join(map(str, sorted(found)))}. Install a version of it that "
                "has it too, or move the data with pg_dump and --database."
            )
        return found[major]

    def _cluster(self, major: int) -> Cluster:
        return Cluster(self.home / f"data-{major}")

    def _data_majors(self) -> list[int]:
        names = (path.name.removeprefix("data-") for path in self.home.glob("data-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def _ready(self) -> Postmaster | None:
        found = self._cluster(self._installation().major).postmaster()
        return found if found is not None and found.is_ready else None

    def _refuse_other_major(self) -> None:
        major, majors = self._installation().major, self._data_majors()
        if not majors or majors[-1] == major:
            return
        if majors[-1] < major:
            cure = "Convert them with `retrieval-db db upgrade`."
        else:
            cure = (
                "`retrieval-db db upgrade` only goes forward: upgrade the program (`pip install "
                f"-U {installation.DISTRIBUTION}`), or choose another folder with "
                "RETRIEVAL_DB_HOME."
            )
        raise ServerError(
            f"The data in {self.home} were written by PostgreSQL {majors[-1]}, and this is "
            f"PostgreSQL {major}. {cure}"
        )

    def _account(self) -> Account:
        """The account that owns the data, or will."""
        me = os.geteuid()
        owners = [self._cluster(major).path.stat().st_uid for major in self._data_majors()]
        if me != 0:
            if owners and owners[-1] != me:
                name = installation.account_of(owners[-1]).name
                raise ServerError(
                    f"The database in {self.home} belongs to the user {name}. Choose another "
                    "folder with RETRIEVAL_DB_HOME, or name a database with --database."
                )
            return installation.account_of(me)
        owner = owners[-1] if owners else self.home.stat().st_uid
        return installation.account_of(owner) if owner else installation.server_account()

    def _prepare_home(self) -> Account:
        self._installation()  # first, because without it no folder is needed
        try:
            if not self.home.exists():
                self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.geteuid() == 0:
                    self.home.chmod(0o755)
            if not self.home.is_dir():
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
                lock.acquire(timeout=PATIENCE)
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

    # Inside the lock

    def _launch(self, cluster: Cluster, programs: Installation, account: Account) -> None:
        found = cluster.postmaster()
        if found is not None and found.state == "starting":
            # The command that started it was interrupted.
            cluster.wait_until_ready(found.pid, self.log, 0, self._notify)
            return
        self._halt(cluster, account)
        cluster.end_leftovers()
        running = self._hold_running(account)
        try:
            crashed = cluster.forget_postmaster()
            if crashed is not None:
                _remove_socket_dir(crashed.socket_dir, account)
            if self.log.exists() and self.log.stat().st_size > 10 * sizing.MB:
                self.log.replace(self.log.with_name("postgres.log.1"))
            socket_dir = self._socket_dir(account)
            self._write_settings(socket_dir, account)
            try:
                cluster.start(
                    programs, account, log=self.log, inherited=[running], notify=self._notify
                )
            except ServerError:
                _remove_socket_dir(socket_dir, account)
                raise
        finally:
            os.close(running)

    def _halt(self, cluster: Cluster, account: Account) -> None:
        found = cluster.postmaster()
        if found is not None:
            cluster.stop(self._notify)
            _remove_socket_dir(found.socket_dir, account)

    def _write_settings(self, socket_dir: Path, account: Account) -> None:
        folder = str(socket_dir).replace('"', '""')
        values = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{folder}"',
            "unix_socket_permissions": "0700",
            "log_line_prefix": "%m [%p] ",
        } | sizing.settings(sizing.Machine.here(self.home))
        text = sizing.text(
            values,
            "Written at every start of the embedded PostgreSQL, for this machine.\n"
            "Your own settings: ALTER SYSTEM SET …, which wins over this file.",
        )
        partial = self.home / "settings.conf.partial"
        partial.write_bytes(os.fsencode(text))
        account.give(partial)
        partial.replace(self.home / "settings.conf")

    def _socket_dir(self, account: Account) -> Path:
        """Where the socket goes: in the home, or in a temporary folder if that cannot be.

        A socket's path has at most 107 bytes, some file systems have no sockets, and libpq
        splits a host at commas. The server's pid file tells every client which folder it is.
        """
        folder = self.home / "socket"
        folder.mkdir(mode=0o700, exist_ok=True)
        account.give(folder)
        for stale in folder.glob(".s.PGSQL.*"):
            stale.unlink()  # of a crashed server, whose pid may be another program's now
        if not {",", "\n"} & set(str(folder)) and _takes_sockets(folder):
            return folder
        return self._temporary_socket_dir(account)

    def _temporary_socket_dir(self, account: Account) -> Path:
        for place in (tempfile.gettempdir(), "/tmp"):
            if account.may_enter(Path(place)):
                folder = Path(tempfile.mkdtemp(prefix="retrieval-db-", dir=place))
                account.give(folder)
                if _takes_sockets(folder):
                    return folder
                folder.rmdir()
        raise ServerError(
            f"There is no place for the database's socket, neither in {self.home} nor in a "
            "temporary folder. Choose another folder with RETRIEVAL_DB_HOME."
        )

    def _hold_running(self, account: Account) -> int:
        """A lock that the server's processes inherit and hold for as long as they live.

        It shows a server that no pid can: one in another container, on the same folder.
        """
        import fcntl  # not on Windows

        file = os.open(self.home / "running", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        account.give(file)
        deadline = time.monotonic() + PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return file
            except BlockingIOError:
                if time.monotonic() > deadline:
                    os.close(file)
                    raise ServerError(
                        f"The database in {self.home} is in use by a server that cannot be seen "
                        "from here; it may run in another container. Stop it there, or choose "
                        "another folder with RETRIEVAL_DB_HOME."
                    ) from None
                time.sleep(0.05)
            except OSError:
                return file  # a file system without locks; PostgreSQL's own checks remain

    def _convert(self, old_major: int, new_major: int, account: Account) -> str:
        """Make a new data directory of an old one; returns SQL that brings extensions up to it."""
        old = self._cluster(old_major)
        free, needed = shutil.disk_usage(self.home).free, old.size() + 200 * sizing.MB
        if free < needed:
            raise ServerError(
                f"The upgrade needs {needed // sizing.MB} MB on the disk of {self.home}, and "
                f"{free // sizing.MB} MB are free. Free some, or move the folder."
            )
        self._notify(f"Upgrading {self.home} from PostgreSQL {old_major} to {new_major}")
        before = installation.readable(self._installation(old_major), account, self.home)
        after = installation.readable(self._installation(new_major), account, self.home)
        # pg_upgrade refuses data that need crash recovery; their own version does it.
        self._launch(old, before, account)
        self._halt(old, account)
        checksums = old.has_checksums(before, account)
        work = Path(tempfile.mkdtemp(prefix="upgrade-", dir=self.home))
        account.give(work)
        socket_dir = self._temporary_socket_dir(account)
        try:
            with self._cluster(new_major).created(after, account, checksums=checksums) as new:
                # Relative paths, because pg_upgrade puts them on a shell's command line.
                command = [str(after.program("pg_upgrade")), "--username", SUPERUSER]
                command += ["--old-datadir", f"../{old.path.name}"]
                command += ["--new-datadir", f"../{new.path.name}"]
                command += ["--old-bindir", str(before.root / "bin")]
                command += ["--new-bindir", str(after.root / "bin")]
                command += ["--socketdir", str(socket_dir), "--jobs", str(os.cpu_count() or 1)]
                run(command, account, work)
            script = work / "update_extensions.sql"
            return script.read_text() if script.exists() else ""
        finally:
            shutil.rmtree(work, ignore_errors=True)
            _remove_socket_dir(socket_dir, account)


def _takes_sockets(folder: Path) -> bool:
    probe = folder / ".s.PGSQL.test"  # as long as the real name
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(os.fsencode(probe))
    except OSError:
        return False
    probe.unlink()
    return True


def _remove_socket_dir(folder: Path, account: Account) -> None:
    """Remove a temporary folder that a server's socket was in."""
    with contextlib.suppress(OSError):
        if folder.name.startswith("retrieval-db-") and folder.lstat().st_uid == account.uid:
            shutil.rmtree(folder)
