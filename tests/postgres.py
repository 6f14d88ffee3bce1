"""The PostgreSQL servers that the tests run on: every major version that can be found.

18 and 16 come with the package of the embedded server, others from Debian's packages or from
`tests/fetch_postgres.py`. A server of the tests lives in a temporary folder, does not care
for durability, and is reached through a Unix socket only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from retrieval_db.server import installation
from retrieval_db.server.installation import Account, Installation

MAJORS = (14, 15, 16, 17, 18)
DEFAULT_MAJOR = 18
FETCHED = Path(__file__).resolve().parent.parent / ".postgres"

_SETTINGS = {
    "autovacuum": "off",  # statistics change when a test says so
    "fsync": "off",
    "full_page_writes": "off",
    "jit": "off",
    "listen_addresses": "",
    "max_wal_size": "2GB",
    "shared_buffers": "128MB",
    "unix_socket_permissions": "0700",
}


class Absent(Exception):
    """There is no usable PostgreSQL of this major version; the message says why."""


def account() -> Account:
    """Whom the servers run as: PostgreSQL refuses to run as root."""
    if os.geteuid() == 0:
        return installation.server_account()
    return installation.account_of(os.geteuid())


def find(major: int, copies: Path) -> Installation:
    """The installation of a major version; programs that cannot be read are copied.

    Raises:
        Absent: there is none.
    """
    embedded = installation.installations()
    if major in embedded:
        return installation.readable(embedded[major], account(), copies)
    for root in (Path(f"/usr/lib/postgresql/{major}"), FETCHED / str(major)):
        if (root / "bin" / "postgres").exists():
            if not account().may_enter(root / "bin"):
                raise Absent(f"user {account().name} cannot read {root}")
            return Installation(major, root)
    raise Absent(
        f"no PostgreSQL {major} here (neither embedded, nor from Debian's packages, nor fetched "
        "with tests/fetch_postgres.py)"
    )


class Cluster:
    """A running PostgreSQL of one major version, with nothing to lose."""

    def __init__(self, major: int) -> None:
        self.major = major
        self._account = account()
        # Not below pytest's own folders: those are closed to the server's account.
        self.folder = Path(tempfile.mkdtemp(prefix=f"retrieval-test-{major}-"))
        self.folder.chmod(0o755)
        self.data_dir = self.folder / "data"
        self.socket_dir = self.folder / "socket"
        self._process: subprocess.Popen[bytes] | None = None
        self._template: str | None = None
        self._databases = 0
        try:
            self.installation = find(major, self.folder)
            self._create()
            self.start()
        except BaseException:
            self.remove()
            raise

    def _create(self) -> None:
        for folder in (self.data_dir, self.socket_dir):
            folder.mkdir(mode=0o700)
            self._account.give(folder)
        initdb = [str(self.installation.program("initdb")), "--pgdata", str(self.data_dir)]
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        installation.run([*initdb, *options, "--no-sync"], self._account, self.folder)

    def start(self) -> None:
        """Start the server, and wait until it accepts connections."""
        settings = _SETTINGS | {"unix_socket_directories": str(self.socket_dir)}
        options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self.installation.program("postgres"), "-D", self.data_dir, *options],
                cwd=self.folder,
                env=installation.environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                **self._account.switch(),
            )
        while True:
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self.url("postgres")).close()
                return
            if self._process.poll() is not None:
                raise RuntimeError((self.folder / "log").read_text())
            time.sleep(0.05)

    def stop(self, how: signal.Signals = signal.SIGQUIT) -> None:
        """Stop the server: at once, or SIGINT rolls back and writes everything first."""
        if self._process is not None:
            self._process.send_signal(how)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Stop the server and delete its folder."""
        self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def url(self, database: str, user: str = "postgres") -> str:
        host = quote(str(self.socket_dir), safe="")
        return f"postgresql://{user}@/{database}?host={host}&port=5432"

    @property
    def has_vector(self) -> bool:
        """Whether the extension `vector` can be created."""
        control = "share/postgresql/extension/vector.control"
        debian = Path(f"/usr/share/postgresql/{self.major}/extension/vector.control")
        return (self.installation.root / control).exists() or debian.exists()

    def template(self) -> str:
        """The name of a database with all migrations, to be cloned."""
        if self._template is None:
            # Imported late: the tests of the server do without migrations.
            from retrieval_db import migration

            self._execute("CREATE DATABASE migrated")
            migration.upgrade(self.url("migrated"))
            self._template = "migrated"
        return self._template

    @contextlib.contextmanager
    def database(self, template: str = "template0") -> Iterator[str]:
        """The URL of a new database, which is dropped afterwards."""
        self._databases += 1
        name = f"test_{self._databases}"
        self._execute("CREATE DATABASE {} TEMPLATE {}", name, template)
        try:
            yield self.url(name)
        finally:
            # A test may have killed or stopped the server.
            with contextlib.suppress(psycopg.OperationalError):
                self._execute("DROP DATABASE IF EXISTS {} WITH (FORCE)", name)

    def _execute(self, command: str, *names: str) -> None:
        statement = sql.SQL(command).format(*map(sql.Identifier, names))
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(statement)


class Clusters:
    """One cluster for each major version, started when a test first asks for it."""

    def __init__(self) -> None:
        self._clusters: dict[int, Cluster | Absent] = {}

    def __getitem__(self, major: int) -> Cluster:
        """The running cluster.

        Raises:
            Absent: there is no PostgreSQL of this version.
        """
        if major not in self._clusters:
            try:
                self._clusters[major] = Cluster(major)
            except Absent as reason:
                self._clusters[major] = reason
        found = self._clusters[major]
        if isinstance(found, Absent):
            raise found
        return found

    def remove(self) -> None:
        for cluster in self._clusters.values():
            if isinstance(cluster, Cluster):
                cluster.remove()
