"""Where images come from: folders, files, lists of paths and tar shards, one image at a time.

Nothing is kept of what was listed, so that a hundred million files need no more memory than a
hundred; sources can be gone through several times.
"""

from __future__ import annotations

import codecs
import hashlib
import os
import shutil
import stat
import sys
import tempfile
import weakref
from collections.abc import Container, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from ..errors import FormatError, ImageError, UsageError
from . import files, tars

STDIN = Path("-")
BLOCK = 1 << 16


@dataclass(frozen=True, slots=True)
class Item:
    """An image to be read.

    Attributes:
        path: of the file; of a shard's member as if the shard were a folder.
        start, size: where a member's bytes are in the shard; None for a file.
        label, metadata: what the shard says of it; metadata is JSON text.
        problem: why it cannot be read, if that is known already.
    """

    path: Path
    start: int | None = None
    size: int | None = None
    label: str | None = None
    metadata: str | None = None
    problem: str | None = None

    def content(self) -> bytes:
        """The bytes of the image file.

        Raises:
            ImageError: they cannot be read.
        """
        if self.problem is not None:
            raise ImageError(f"{files.printable(self.path)}: {self.problem}")
        if self.start is None or self.size is None:
            return files.content(self.path)
        found = tars.shard_of(str(self.path))
        if found is None:
            raise ImageError(f"{files.printable(self.path)}: the shard is gone")
        return files.part(Path(found[0]), self.start, self.size)


@dataclass(frozen=True)
class Shard:
    """A machine's part of a job: the images whose stored name falls to it.

    Attributes:
        number: from 1.
        of: how many parts there are.
    """

    number: int
    of: int

    def __post_init__(self) -> None:
        if not 1 <= self.number <= self.of:
            raise UsageError(f"--shard is 1/N to N/N; there is no part {self}.")

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    @classmethod
    def parse(cls, text: str) -> Shard:
        """Read `2/4`: the second of four parts.

        Raises:
            UsageError: something else.
        """
        number, _, of = text.partition("/")
        if not (number.isdecimal() and of.isdecimal()):
            raise UsageError(f"--shard is the number of the part and of parts: 2/4, not {text!r}.")
        return cls(int(number), int(of))

    def holds(self, name: str) -> bool:
        """Whether an image is in this part; it depends on the stored name alone."""
        # Not a checksum: those of names that differ in a digit are of one parity.
        digest = hashlib.blake2b(os.fsencode(name), digest_size=8).digest()
        return int.from_bytes(digest, "big") % self.of == self.number - 1


@dataclass
class Sources:
    """Images in folders, files, lists and shards; to be gone through as often as one likes.

    Attributes:
        places: folders, image files, `.tar` shards; `-` is a list of paths on standard input.
        lists: files of paths, one on each line; `-` is standard input.
        items: images that are known already.
    """

    places: Sequence[Path] = ()
    lists: Sequence[Path] = ()
    items: Sequence[Item] = ()
    _spooled: dict[Path, BinaryIO] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.lists = [*self.lists, *(place for place in self.places if place == STDIN)]
        self.places = [place for place in self.places if place != STDIN]

    @classmethod
    def of(cls, *sources: Path | str | Sources) -> Sources:
        """Places as sources, or the sources that are given.

        Raises:
            UsageError: sources and something beside them.
        """
        match sources:
            case [Sources() as whole]:
                return whole
            case _:
                places = [Path(place) for place in sources if not isinstance(place, Sources)]
                if len(places) < len(sources):
                    raise UsageError("Sources stand alone: put what is beside them into them.")
                return cls(places)

    def __iter__(self) -> Iterator[Item]:
        """The images in order; one that several folders lead to comes once.

        Raises:
            UsageError: a folder, file or list does not exist.
            FormatError: a shard that is compressed.
        """
        # A list may say what it likes.
        for place in _outermost(self.places):
            yield from _items(place)
        for file in self.lists:
            for path in self._listed(file):
                if os.path.isdir(path) or tars.is_shard(path):
                    yield from _items(path)
                else:
                    yield Item(path)
        yield from self.items

    def count(self) -> int:
        """How many images there are.

        Raises:
            UsageError: there are none.
        """
        self.check()
        return sum(1 for _ in self)

    def check(self) -> None:
        """See whether there is anything at all.

        Raises:
            UsageError: there is not, or a folder, file or list does not exist.
        """
        if not (self.places or self.lists or self.items):
            raise UsageError("Say where: folders, image files, tar shards, or --list FILE.")
        for place in self.places:
            if not os.path.isdir(place) and not files.exists(place):
                raise UsageError(f"There is no file or folder {files.printable(place)}.")
        if next(iter(self), None) is None:
            named = ", ".join(files.printable(place) for place in (*self.places, *self.lists))
            raise UsageError(f"There are no image files in {named}.")

    def folders(self) -> list[Path]:
        """The places whose images may be gone: what a list leaves out is not."""
        return [place for place in self.places if place.is_dir() or tars.is_shard(place)]

    def _listed(self, file: Path) -> Iterator[Path]:
        """The paths of a list; relative ones start from the list's folder."""
        base = Path() if file == STDIN else file.parent
        try:
            with self._open(file) as lines:
                first = True
                for line in _lines(lines):
                    name = line.removeprefix(codecs.BOM_UTF8) if first else line
                    first = False
                    if name.strip():
                        yield base / os.fsdecode(name)
        except OSError as error:
            raise UsageError(
                f"The list {files.printable(file)} cannot be read: {error.strerror}."
            ) from error

    def _open(self, file: Path) -> BinaryIO:
        if file != STDIN and not stat.S_ISFIFO(file.stat().st_mode):
            return file.open("rb")
        # Standard input and pipes can be read once only; a copy any number of times.
        if file not in self._spooled:
            copy = tempfile.TemporaryFile()  # noqa: SIM115
            weakref.finalize(self, copy.close)
            with nullcontext(sys.stdin.buffer) if file == STDIN else file.open("rb") as pipe:
                shutil.copyfileobj(pipe, copy)
            copy.flush()
            self._spooled[file] = copy
        self._spooled[file].seek(0)
        return os.fdopen(os.dup(self._spooled[file].fileno()), "rb")


def _outermost(places: Iterable[Path]) -> Iterator[Path]:
    """The places, each once, without those that the walk through another one comes by."""
    known = {os.path.abspath(place): place for place in places}
    for name, place in known.items():
        if not _is_passed(Path(name), known):
            yield place


def _is_passed(place: Path, known: Container[str]) -> bool:
    """Whether a walk from a known folder above comes by, and does not leave out what is on its way:
    hidden names, links to folders, and files that are no images."""
    above = next((folder for folder in place.parents if str(folder) in known), None)
    if above is None:
        return False
    way = (place, *takewhile(above.__ne__, place.parents))
    return all(
        not step.name.startswith(".") and not (step.is_symlink() and step.is_dir()) for step in way
    ) and (place.is_dir() or place.suffix.lower() in files.suffixes())


def _items(place: Path) -> Iterator[Item]:
    if not (tars.is_shard(place) and place.is_file()):
        yield from (Item(file) for file in files.find(place))
        return
    try:
        for member in tars.members(place, files.suffixes()):
            yield Item(
                place / member.name, member.start, member.size, member.label, member.metadata
            )
    except FormatError as error:
        # A broken file does not stop a run.
        yield Item(place, problem=str(error).removeprefix(f"{place}: "))


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Lines without their ends; or names that end with zero bytes, if there are any.

    No name has a zero byte in it.
    """
    rest = file.read(BLOCK)
    zero = b"\0" in rest
    file.seek(0)
    if not zero:
        for line in file:
            yield from line.rstrip(b"\r\n").split(b"\0")
        return
    rest = b""
    while block := file.read(BLOCK):
        *names, rest = (rest + block).split(b"\0")
        yield from names
    yield from filter(None, [rest])
