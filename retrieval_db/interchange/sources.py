"""What files of codes have in common: they are read again and again, batch by batch."""

from __future__ import annotations

import pickle
import re
import tempfile
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, Protocol

import numpy as np
from numpy.typing import NDArray

from .. import codes, errors
from .codeset import CodeSet
from .paths import Paths

# Four words of 32 bits: what the files of the MySQL era hold.
WORD_BITS = 128


class Source(Protocol):
    """Codes in a file.

    Attributes:
        kind: its format, for messages.
        remarks: what the last reading left out, and why.
    """

    @property
    def kind(self) -> str: ...

    @property
    def remarks(self) -> Sequence[str]: ...

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The rows in the file's order, `size` at a time; of an empty file one empty batch.

        Raises:
            FormatError: the file is not what it should be; the message says where.
            CodeError: what it holds are no codes.
        """


@dataclass(frozen=True)
class Settings:
    """What a file does not say of itself.

    Attributes:
        bits: L, where a file of words or texts leaves it open.
        paths: a file with the path of each code, for files of bare codes.
        table: the table of a MySQL dump.

    Raises:
        UsageError: no code is `bits` long.
    """

    bits: int | None = None
    paths: Path | None = None
    table: str = "img"

    def __post_init__(self) -> None:
        if self.bits is not None:
            try:
                codes.check_bits(self.bits)
            except errors.InvalidCode as error:
                raise errors.UsageError(f"--bits: {error}") from error

    @property
    def length(self) -> int:
        """L of codes that are given as words."""
        return WORD_BITS if self.bits is None else self.bits


class FileSource:
    """A file of codes, and what it does not say of itself.

    Attributes:
        path: of the file.
        settings: what its user says.
        remarks: what the last reading left out, and why.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self.settings = settings
        self.remarks: list[str] = []

    def given_paths(self) -> Paths | None:
        """The paths of the codes from a file of their own, if one is given; from its start."""
        return None if self.settings.paths is None else Paths(self.settings.paths)


@dataclass(frozen=True)
class Held:
    """Codes in memory, as a source."""

    items: CodeSet
    kind: str = "memory"
    remarks: tuple[str, ...] = ()

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The rows in order, `size` at a time; of an empty set one empty batch."""
        return self.items.batches(size)


@dataclass(frozen=True)
class Labelled:
    """A source whose labels come from elsewhere: `label_of` knows them by the stored path."""

    source: Source
    label_of: Callable[[str], str | None]

    @property
    def kind(self) -> str:
        """Of the source itself."""
        return self.source.kind

    @property
    def remarks(self) -> Sequence[str]:
        """Of the source itself."""
        return self.source.remarks

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The source's rows with these labels."""
        for batch in self.source.batches(size):
            yield replace(batch, labels=[self.label_of(path) for path in batch.paths])


class Spooled:
    """A source that takes long to read: read once, its batches wait in a temporary file.

    What is read again is then what was read before, even if the file has changed meanwhile.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self._spool: IO[bytes] | None = None
        self._size = 0

    @property
    def kind(self) -> str:
        """Of the source itself."""
        return self.source.kind

    @property
    def remarks(self) -> Sequence[str]:
        """Of the source itself."""
        return self.source.remarks

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The source's rows, from the temporary file once they have all been read."""
        if self._spool is not None and self._size == size:
            self._spool.seek(0)
            # Nobody else can write to this file: it has no name.
            while self._spool.peek(1):  # type: ignore[attr-defined]
                yield pickle.load(self._spool)
            return
        with ExitStack() as unfinished:
            spool = unfinished.enter_context(tempfile.TemporaryFile())
            for batch in self.source.batches(size):
                try:
                    pickle.dump(batch, spool, protocol=pickle.HIGHEST_PROTOCOL)
                except OSError as error:
                    raise errors.FormatError(
                        f"Cannot write to the temporary folder {tempfile.gettempdir()}: "
                        f"{error.strerror}. TMPDIR names another."
                    ) from error
                yield batch
            unfinished.pop_all()
        weakref.finalize(self, spool.close)
        self._spool, self._size = spool, size


def pack_words(flat: Sequence[int], bits: int | None, first: int = 0) -> NDArray[np.uint8]:
    """Codes from their words.

    Args:
        flat: 4 N integers, the words of one code after those of another; unsigned, or at 256
            bits in two's complement as well.
        bits: L; 128 if None.
        first: the number of the first code, for messages.

    Returns:
        uint8 [N, ceil(L/8)].

    Raises:
        WrongWidth: a word has more than L/4 bits.
    """
    length = WORD_BITS if bits is None else bits
    try:
        words = np.array(flat, dtype=np.int64)
    except OverflowError:
        words = np.array([_signed(word, first + at // 4) for at, word in enumerate(flat)], np.int64)
    words = words.reshape(-1, codes.WORDS)
    try:
        return codes.from_words(words, length)
    except errors.WrongWidth as error:
        width = length // codes.WORDS
        wide = (words.view(np.uint64) >> np.uint64(width)).any(axis=1)
        row = int(np.flatnonzero(wide)[0])
        raise errors.WrongWidth(
            f"Entry {first + row} has a word that is not one of {width} bits "
            f"({', '.join(map(str, words[row].tolist()))}): the codes are not of {length} bits. "
            "--bits says how long they are."
        ) from error


def parse_texts(texts: Sequence[str], bits: int, where: Callable[[int], str]) -> NDArray[np.uint8]:
    """Codes from hex digits or bits; an error says `where` in the file its text stands.

    Returns:
        uint8 [N, ceil(L/8)].

    Raises:
        InvalidCode, WrongWidth: a text is no code of `bits` bits.
    """
    try:
        return codes.parse_all(texts, bits)
    except errors.CodeError:
        for row, text in enumerate(texts):
            try:
                codes.parse(text, bits)
            except errors.CodeError as error:
                raise type(error)(f"{where(row)}: {error}") from error
        raise


def guess_bits(texts: Sequence[str]) -> int:
    """L of some codes: of binary digits as many as there are, else four for each hex digit.

    Digits after `0x` are never taken for binary ones.

    Raises:
        FormatError: there are none.
        InvalidCode: no code is so long.
    """
    digits = [re.sub(r"^(0[xX]|\\x)", "", text) for text in texts]
    longest = max(map(len, digits), default=0)
    if not longest:
        raise errors.FormatError("It holds no codes.")
    binary = longest > 1 and all(set(text) <= {"0", "1"} for text in texts)
    return codes.check_bits(longest if binary else 4 * longest)


def _signed(word: int, entry: int) -> int:
    if not -(1 << 63) <= word < 1 << 64:
        raise errors.WrongWidth(f"Entry {entry} has a word of more than 64 bits: {word}.")
    return word - (1 << 64) if word >= 1 << 63 else word
