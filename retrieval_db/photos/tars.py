"""Tar shards in WebDataset's layout: `key.jpg` with `key.cls`, `key.txt` or `key.json` beside it.

A member is called as if the shard were a folder: `shards/000.tar/key.jpg`. Shards are not
compressed (images are already), so that any member can be read by itself.

https://github.com/webdataset/webdataset: members of one sample stand side by side and share
their name up to the first dot.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Set
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from .. import jsonb, texts
from ..errors import FormatError

SUFFIX = ".tar"
INSIDE = re.compile(rf"{re.escape(SUFFIX)}(?={re.escape(os.sep)})", re.IGNORECASE | re.ASCII)
COMPRESSED = (".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst")

# What stands beside an image is short; longer members are no labels.
SHORT = 1 << 20


@dataclass(frozen=True)
class Member:
    """An image in a shard.

    Attributes:
        name: in the shard.
        start, size: where its bytes are in the shard's file.
        label: from `key.cls`, else from "label" in `key.json`, else None.
        metadata: `key.json`, if it is an object that can be stored; JSON text or None.
    """

    name: str
    start: int
    size: int
    label: str | None = None
    metadata: str | None = None


@dataclass
class _Sample:
    """The members that share a key."""

    key: str = ""
    images: list[tuple[str, int, int]] = field(default_factory=list)
    label: str | None = None
    json_label: str | None = None
    metadata: str | None = None

    def members(self) -> Iterator[Member]:
        label = self.label or self.json_label
        for name, start, size in self.images:
            yield Member(name, start, size, label, self.metadata)

    def add_json(self, text: str) -> None:
        """Take an object in; what cannot be stored says nothing of the image."""
        try:
            value = jsonb.parse(text)
        except ValueError:
            return
        if isinstance(value, dict):
            self.metadata = text
            given = value.get("label")
            self.json_label = _label(str(given)) if isinstance(given, str | int) else None


def is_shard(path: Path | str) -> bool:
    """Whether a path is called like a shard.

    Raises:
        FormatError: it is called like a compressed one.
    """
    name = os.fspath(path).lower()
    if name.endswith(COMPRESSED):
        raise FormatError(f"{path}: a compressed shard cannot be read in parts; unpack it to .tar.")
    return name.endswith(SUFFIX)


def members(shard: Path, suffixes: Set[str]) -> Iterator[Member]:
    """The images of a shard, in its order, without reading them; of a name the last one.

    Args:
        suffixes: of the members that are images, lower case, with the dot.

    Raises:
        FormatError: not a tar file, or one that ends too soon (after what came before that).
    """
    sample = _Sample()
    try:
        # What was appended under a name takes its place, as where a shard is unpacked.
        places = _listed(os.fspath(shard)).places
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                # The module would keep them all.
                tar.members.clear()  # type: ignore[attr-defined]
                name = _name(entry)
                place = entry.offset_data, entry.size
                if places.get(name, place) != place:
                    continue
                base = os.path.basename(name)
                if not name or base.startswith("."):
                    continue
                stem, _, ending = base.partition(".")
                key = os.path.join(os.path.dirname(name), stem)
                if key != sample.key:
                    yield from sample.members()
                    sample = _Sample(key)
                if os.path.splitext(base)[1].lower() in suffixes:
                    sample.images.append((name, entry.offset_data, entry.size))
                elif ending in ("cls", "json") and entry.size <= SHORT:
                    text = _text(tar, entry)
                    if ending == "cls":
                        sample.label = _label(text.strip())
                    else:
                        sample.add_json(text)
            _check_end(tar)
            yield from sample.members()
    except OSError as error:
        raise FormatError(f"{shard}: {error.strerror or error}") from error
    # The module raises nearly anything on broken files.
    except Exception as error:
        yield from sample.members()
        raise FormatError(f"{shard}: a broken tar file ({error})") from error


def shard_of(path: str) -> tuple[str, str] | None:
    """The shard that a path leads into, and the member's name; None if there is no such file."""
    for found in INSIDE.finditer(path):
        end = found.end()
        if os.path.isfile(path[:end]):
            return path[:end], path[end + 1 :]
    return None


def place(path: str) -> tuple[str, int, int] | None:
    """Where the bytes of `shard.tar/member` are: the file, the start, the size; None if nowhere.

    Raises:
        OSError: the shard cannot be read.
    """
    found = shard_of(path)
    if found is None:
        return None
    shard, name = found
    at = _listed(shard).places.get(name)
    return None if at is None else (shard, *at)


def is_gone(path: str) -> bool:
    """Whether it is certain that no shard has such a member; one behind a damage may be there.

    Raises:
        OSError: the shard cannot be read.
    """
    found = shard_of(path)
    if found is None:
        return True
    shard, name = found
    listing = _listed(shard)
    return listing.whole and name not in listing.places


@dataclass(frozen=True)
class _Listing:
    """Where each member of a shard is, and whether it was read to its end."""

    places: dict[str, tuple[int, int]]
    whole: bool


def _listed(shard: str) -> _Listing:
    status = os.stat(shard)
    return _listing(shard, status.st_mtime_ns, status.st_size)


@lru_cache(maxsize=16)
def _listing(shard: str, modified: int, size: int) -> _Listing:
    """What is in a shard; one that has changed since is read anew."""
    places = {}
    try:
        with tarfile.open(shard, "r:") as tar:
            for entry in tar:
                if name := _name(entry):
                    places[name] = (entry.offset_data, entry.size)
            _check_end(tar)
    except OSError:
        raise
    # The module raises nearly anything on broken files. What stands before the damage can be read.
    except Exception:
        return _Listing(places, whole=False)
    return _Listing(places, whole=True)


def _check_end(tar: tarfile.TarFile) -> None:
    """See whether the last member was followed by the block of zeros that ends a tar file.

    Raises:
        ReadError: by something else, which the module takes for an end, too.
    """
    assert tar.fileobj is not None
    tar.fileobj.seek(tar.offset)
    if tar.fileobj.read(tarfile.BLOCKSIZE) != bytes(tarfile.BLOCKSIZE):
        raise tarfile.ReadError("it ends too soon, or is damaged behind the last member")


def _name(entry: tarfile.TarInfo) -> str:
    """The name of a member that is a file inside the shard; empty for anything else."""
    name = os.path.normpath(entry.name).lstrip("/")
    usable = entry.isreg() and not entry.issparse() and not name.startswith("..")
    return name if usable else ""


def _text(tar: tarfile.TarFile, entry: tarfile.TarInfo) -> str:
    file = tar.extractfile(entry)
    return "" if file is None else file.read().decode("utf-8", "replace").replace("\0", "")


def _label(text: str) -> str | None:
    return text if text and len(text.encode()) <= texts.LONGEST else None
