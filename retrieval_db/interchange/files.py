"""Files that are written whole or not at all, and read through compression."""

from __future__ import annotations

import bz2
import errno
import gzip
import lzma
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, AnyStr

from .. import errors

# What the standard library can unpack: names, and the first bytes of such files.
COMPRESSIONS = {b"\x1f\x8b": "gzip", b"\xfd7zXZ\0": "xz", b"BZh": "bzip2"}
OPENERS: dict[str | None, Any] = {
    None: open,
    "gzip": gzip.open,
    "xz": lzma.open,
    "bzip2": bz2.open,
}


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file that takes the place of `path` when all has been written.

    It stands beside it, and gets the rights of the file that was there. Through a link the file
    is replaced that it leads to. A pipe or a device gets the content.

    Raises:
        FormatError: nothing can be written there.
    """
    target = Path(os.path.realpath(path))
    with writing(path):
        if target.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        before = target.stat() if target.exists() else None
        replaceable = before is None or stat.S_ISREG(before.st_mode)
        handle, name = tempfile.mkstemp(
            dir=target.parent if replaceable else None, prefix=f".{target.name}."
        )
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        with writing(path):
            if replaceable:
                temporary.chmod(_rights() if before is None else stat.S_IMODE(before.st_mode))
                temporary.replace(target)
            else:
                with temporary.open("rb") as source, target.open("wb") as sink:
                    shutil.copyfileobj(source, sink)
    finally:
        temporary.unlink(missing_ok=True)


def _rights() -> int:
    """Those of a new file."""
    umask = os.umask(0)
    os.umask(umask)
    return 0o666 & ~umask


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Errors of the system from within, such as a full disk, are ours and name the file.

    Raises:
        FormatError: instead of them.
    """
    try:
        yield
    except BrokenPipeError:
        # Of the screen, not of the file.
        raise
    except OSError as error:
        raise errors.FormatError(f"Cannot write {path}: {error.strerror or error}.") from error


def compression(path: Path) -> str | None:
    """Which compression a file has, by its first bytes: `gzip`, `xz`, `bzip2` or none.

    Raises:
        FormatError: it cannot be read.
    """
    with named(path), path.open("rb") as file:
        start = file.read(6)
    return next((name for magic, name in COMPRESSIONS.items() if start.startswith(magic)), None)


@contextmanager
def stream(path: Path) -> Iterator[IO[bytes]]:
    """A file's bytes, unpacked where it is compressed with gzip, xz or bzip2.

    Raises:
        FormatError: it cannot be read, or is damaged; so errors of ours get the file's name.
    """
    with named(path), OPENERS[compression(path)](path, "rb") as file:
        yield file


def lines(file: IO[AnyStr], longest: int) -> Iterator[AnyStr]:
    """The lines of a file, none longer than that: each is held whole.

    Raises:
        FormatError: a line is longer.
    """
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        if len(line) > longest:
            raise errors.FormatError(f"Line {number} is longer than {longest:,} characters.")
        yield line


@contextmanager
def named(path: Path, problem: str = "cannot be read") -> Iterator[None]:
    """Errors from within name the file; those of reading it become ours.

    Args:
        problem: what is wrong with a file that its parser fails on.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise errors.FormatError(f"There is no file {path}.") from error
    except errors.RetrievalError as error:
        raise type(error)(f"{path}: {error}") from error
    # Parsers raise nearly anything on damaged files.
    except Exception as error:
        if isinstance(error, OSError) and error.strerror:
            raise errors.FormatError(f"{path} cannot be read: {error.strerror}.") from error
        reason = str(error) or type(error).__name__
        raise errors.FormatError(f"{path} {problem}: {reason}.") from error
