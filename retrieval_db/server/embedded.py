"""The embedded PostgreSQL: a server of one's own, in a folder, that starts by itself.

The server listens on no network address. Whoever can enter its home's `socket/` is trusted, and
that is the account that owns the data, and root. It keeps running until `Server.stop`.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from ..errors import ServerError
from . import installation, sizing
from .cluster import SUPERUSER, Cluster, Notify, Postmaster
from .home import Home, default_home, remove_socket_dir
from .installation import Account, Installation, run

DATABASE = "retrieval"


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
        self._home = Home((home or default_home()).expanduser().resolve(), notify)
        self._major = major
        self._notify = notify

    @property
    def home(self) -> Path:
        """The folder of everything."""
        return self._home.path

    @property
    def log(self) -> Path:
        """The server's log file."""
        return self._home.log

    def status(self) -> ServerStatus:
        """Look, and change nothing.

        Raises:
            ServerError: no PostgreSQL is installed, or the folder is another user's.
        """
        installed = self._installation()
        majors = self._home.majors()
        cluster = self._home.cluster(majors[-1] if majors else installed.major)
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
        account = self._home.prepare()
        with self._home.locked(account):
            if self._ready():
                return
            self._refuse_other_major()
            programs = installation.readable(self._installation(), account, self.home)
            cluster = self._home.cluster(programs.major)
            if not cluster.path.exists():
                self._notify(f"Creating a PostgreSQL {programs.version} database in {self.home}")
                with cluster.created(programs, account) as new:
                    # Before the server, so that nobody sees one without the database.
                    new.create_database(DATABASE, programs, account)
            self._launch(cluster, programs, account)

    def stop(self) -> bool:
        """Stop the server; connections are closed, transactions in progress rolled back.

        Returns:
            Whether there was one.

        Raises:
            ServerError: the server belongs to another user.
        """
        found = False
        for cluster in map(self._home.cluster, self._home.majors()):
            if cluster.postmaster() is not None:
                account = self._home.account()
                with self._home.locked(account):
                    self._halt(cluster, account)
                found = True
        return found

    def upgrade(self) -> Path | None:
        """Bring data of an older major version to the installed one, and start the server.

        The old data directory is left as it was, so that there must be room for both. Settings
        made with ALTER SYSTEM stay behind in it.

        Returns:
            The old data directory, which may be deleted; None if there was nothing to upgrade.

        Raises:
            ServerError: it cannot; the old data are untouched.
        """
        major = self._installation().major
        account = self._home.prepare()
        with self._home.locked(account):
            majors = self._home.majors()
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
        return self._home.cluster(old).path

    # What is installed, and what it finds

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

    def _ready(self) -> Postmaster | None:
        found = self._home.cluster(self._installation().major).postmaster()
        return found if found is not None and found.is_ready else None

    def _refuse_other_major(self) -> None:
        major, majors = self._installation().major, self._home.majors()
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

    # Inside the lock

    def _launch(self, cluster: Cluster, programs: Installation, account: Account) -> None:
        found = cluster.postmaster()
        if found is not None and found.state == "starting":
            # The command that started it was interrupted.
            cluster.wait_until_ready(found.pid, self.log, 0, self._notify)
            return
        self._halt(cluster, account)
        cluster.end_leftovers()
        running = self._home.hold_running(account)
        try:
            crashed = cluster.forget_postmaster()
            if crashed is not None:
                remove_socket_dir(crashed.socket_dir, account)
            if self.log.exists() and self.log.stat().st_size > 10 * sizing.MB:
                self.log.replace(self.log.with_name("postgres.log.1"))
            socket_dir = self._home.socket_dir(account)
            self._home.write_settings(socket_dir, account)
            try:
                cluster.start(
                    programs, account, log=self.log, inherited=[running], notify=self._notify
                )
            except ServerError:
                remove_socket_dir(socket_dir, account)
                raise
        finally:
            os.close(running)

    def _halt(self, cluster: Cluster, account: Account) -> None:
        found = cluster.postmaster()
        if found is not None:
            cluster.stop(self._notify)
            remove_socket_dir(found.socket_dir, account)

    def _convert(self, old_major: int, new_major: int, account: Account) -> str:
        """Make a new data directory of an old one; returns SQL that brings extensions up to it."""
        old = self._home.cluster(old_major)
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
        socket_dir = self._home.temporary_socket_dir(account)
        try:
            with self._home.cluster(new_major).created(after, account, checksums=checksums) as new:
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
            remove_socket_dir(socket_dir, account)
