"""The folder that the embedded server lives in, and whose it is.

It holds everything:

    data-18/        the data directory, named after PostgreSQL's major version
    socket/         the Unix socket; only the server's account can enter
    settings.conf   sized to the machine, rewritten at every start
    postgres.log    what the server says
    lock            held by the command that starts, stops or upgrades
    running         held (flock) by the server's processes for as long as there is one
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

import platformdirs
from filelock import FileLock, Timeout

from ..errors import ServerError
from . import installation, sizing
from .cluster import PATIENCE, Cluster, Notify
from .installation import Account

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


@dataclass(frozen=True)
class Home:
    """A home folder, whether or not it exists.

    Attributes:
        path: absolute.
        notify: is told, in words, what takes long.
    """

    path: Path
    notify: Notify

    @property
    def log(self) -> Path:
        """What the server says."""
        return self.path / "postgres.log"

    def cluster(self, major: int) -> Cluster:
        """The data directory of a major version."""
        return Cluster(self.path / f"data-{major}")

    def majors(self) -> list[int]:
        """The major versions that there are data of, ascending."""
        names = (path.name.removeprefix("data-") for path in self.path.glob("data-*"))
        return sorted(int(name) for name in names if name.isdecimal())

    def account(self) -> Account:
        """The account that owns the data, or will.

        Raises:
            ServerError: the data are another user's.
        """
        me = os.geteuid()
        owners = [self.cluster(major).path.stat().st_uid for major in self.majors()]
        if me != 0:
            if owners and owners[-1] != me:
                name = installation.account_of(owners[-1]).name
                raise ServerError(
                    f"The database in {self.path} belongs to the user {name}. Choose another "
                    "folder with RETRIEVAL_DB_HOME, or name a database with --database."
                )
            return installation.account_of(me)
        owner = owners[-1] if owners else self.path.stat().st_uid
        return installation.account_of(owner) if owner else installation.server_account()

    def prepare(self) -> Account:
        """Make the folder, if need be; returns the account that owns the data, or will.

        Raises:
            ServerError: it cannot be used.
        """
        try:
            if not self.path.exists():
                self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
                if os.geteuid() == 0:
                    self.path.chmod(0o755)
            if not self.path.is_dir():
                raise NotADirectoryError(20, "it is not a folder")
            if not os.access(self.path, os.R_OK | os.W_OK | os.X_OK):
                raise PermissionError(13, "it cannot be written")
        except OSError as error:
            raise ServerError(
                f"The folder {self.path} cannot be used for the embedded PostgreSQL: "
                f"{error.strerror}. Choose another one with RETRIEVAL_DB_HOME, or name a "
                "database of your own with --database."
            ) from error
        account = self.account()
        if not account.may_enter(self.path):
            raise ServerError(
                f"PostgreSQL does not run as root but as the user {account.name}, who cannot "
                f"enter {self.path}. Choose a folder with RETRIEVAL_DB_HOME that this user can "
                "reach, such as /var/lib/retrieval-db."
            )
        return account

    @contextlib.contextmanager
    def locked(self, account: Account) -> Iterator[None]:
        """Wait for other commands that start, stop or upgrade, and keep them out.

        Raises:
            ServerError: the folder has no locks.
        """
        lock = FileLock(self.path / "lock")
        while True:
            try:
                lock.acquire(timeout=PATIENCE)
                break
            except Timeout:
                self.notify("Another command starts or stops the database; waiting for it")
            except OSError as error:
                raise ServerError(
                    f"The folder {self.path} cannot be locked: {error}. "
                    "Choose another one with RETRIEVAL_DB_HOME."
                ) from error
        try:
            account.give(self.path / "lock")
            yield
        finally:
            lock.release()

    def write_settings(self, socket_dir: Path, account: Account) -> None:
        """Write the server's settings anew, for this machine."""
        folder = str(socket_dir).replace('"', '""')
        values = {
            "listen_addresses": "",
            "port": str(PORT),
            "unix_socket_directories": f'"{folder}"',
            "unix_socket_permissions": "0700",
            "log_line_prefix": "%m [%p] ",
        } | sizing.settings(sizing.Machine.here(self.path))
        text = sizing.text(
            values,
            "Written at every start of the embedded PostgreSQL, for this machine.\n"
            "Your own settings: ALTER SYSTEM SET …, which wins over this file.",
        )
        partial = self.path / "settings.conf.partial"
        partial.write_bytes(os.fsencode(text))
        account.give(partial)
        partial.replace(self.path / "settings.conf")

    def socket_dir(self, account: Account) -> Path:
        """Where the socket goes: in the home, or in a temporary folder if that cannot be.

        A socket's path has at most 107 bytes, some file systems have no sockets, and libpq
        splits a host at commas. The server's pid file tells every client which folder it is.
        """
        folder = self.path / "socket"
        folder.mkdir(mode=0o700, exist_ok=True)
        account.give(folder)
        for stale in folder.glob(".s.PGSQL.*"):
            stale.unlink()  # of a crashed server, whose pid may be another program's now
        if not {",", "\n"} & set(str(folder)) and _takes_sockets(folder):
            return folder
        return self.temporary_socket_dir(account)

    def temporary_socket_dir(self, account: Account) -> Path:
        """A new folder for a socket, outside the home.

        Raises:
            ServerError: no temporary folder will do.
        """
        for place in (tempfile.gettempdir(), "/tmp"):
            if account.may_enter(Path(place)):
                folder = Path(tempfile.mkdtemp(prefix="retrieval-db-", dir=place))
                account.give(folder)
                if _takes_sockets(folder):
                    return folder
                folder.rmdir()
        raise ServerError(
            f"There is no place for the database's socket, neither in {self.path} nor in a "
            "temporary folder. Choose another folder with RETRIEVAL_DB_HOME."
        )

    def hold_running(self, account: Account) -> int:
        """A lock that the server's processes inherit and hold for as long as they live.

        It shows a server that no pid can: one in another container, on the same folder.

        Returns:
            The open file, to be handed to the server.

        Raises:
            ServerError: such a server holds it.
        """
        import fcntl  # not on Windows

        file = os.open(self.path / "running", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
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
                        f"The database in {self.path} is in use by a server that cannot be seen "
                        "from here; it may run in another container. Stop it there, or choose "
                        "another folder with RETRIEVAL_DB_HOME."
                    ) from None
                time.sleep(0.05)
            except OSError:
                return file  # a file system without locks; PostgreSQL's own checks remain


def _takes_sockets(folder: Path) -> bool:
    probe = folder / ".s.PGSQL.test"  # as long as the real name
    try:
        with socket.socket(socket.AF_UNIX) as unix:
            unix.bind(os.fsencode(probe))
    except OSError:
        return False
    probe.unlink()
    return True


def remove_socket_dir(folder: Path, account: Account) -> None:
    """Remove a temporary folder that a server's socket was in."""
    with contextlib.suppress(OSError):
        if folder.name.startswith("retrieval-db-") and folder.lstat().st_uid == account.uid:
            shutil.rmtree(folder)
