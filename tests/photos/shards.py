"""Tar files of photos."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

from tests import command


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    command.photo(seed).save(buffer, "PNG")
    return buffer.getvalue()


def make_shard(file: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file
