"""Where files are kept, and writing them so that nobody meets half of one."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import IO

import platformdirs

from retrieval_db.errors import FormatError


def home_folder(folder: Path | None = None) -> Path:
    """Where downloads and copies are kept: `folder`, $RETRIEVAL_DB_HOME or the user's cache."""
    if folder is not None:
        return folder
    home = os.environ.get("RETRIEVAL_DB_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("retrieval-db"))


def write_result(path: Path, content: bytes) -> None:
    """Write what a user asked for, whole or not at all.

    Raises:
        FormatError: it cannot be written, as on a full disk.
    """
    try:
        write_atomically(path, lambda file: file.write(content))
    except OSError as error:
        raise FormatError(f"Cannot write {path}: {error.strerror or error}.") from error


def write_atomically(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file so that others see all of it or nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=path.name + ".")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            write(file)
        # mkstemp makes files private; these are as readable as the folder.
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
