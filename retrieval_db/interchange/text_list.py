"""Lists of codes as text: hex digits or bits, one code a line, with or without its path."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import islice
from typing import IO

from ..errors import FormatError, UsageError
from .codeset import CodeSet
from .files import lines, stream
from .paths import Paths
from .sources import FileSource, guess_bits, parse_texts

# A code, and perhaps a path after a comma, a semicolon or white space.
LINE = re.compile(r"((?:0[xX]|\\x)?[0-9a-fA-F]+)(?:\s*[,;]\s*|\s+|$)(.*)", re.DOTALL)
MAX_LINE = 1 << 16

# Codes that are looked at to see whether they are hex digits or bits.
LOOKED_AT = 200

# Line number, code and path, or an empty path.
Row = tuple[int, str, str]


class ListSource(FileSource):
    """A text with one code a line; empty lines and those that begin with `#` do not count.

    A path may follow the code. Where none does, it is looked up by the code's number from 0 in
    the file that `settings.paths` names; without one, the number itself is the path.
    """

    kind = "list"

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The codes in the file's order, `size` at a time.

        Raises:
            FormatError: a line without a code, or some lines with a path and some without.
            InvalidCode, WrongWidth: codes of several widths, or of one that no code has.
            UsageError: paths are given, but the file has its own.
        """
        self.remarks = []
        paths = self.given_paths()
        with stream(self.path) as file:
            first = list(islice(rows(file), LOOKED_AT))
            bits = self.settings.bits or guess_bits([text for _, text, _ in first])
            own = bool(first and first[0][2])
        if own and paths is not None:
            raise UsageError(f"{self.path} has paths of its own; leave --paths out.")
        done = 0
        with stream(self.path) as file:
            waiting = rows(file)
            while (some := list(islice(waiting, size))) or not done:
                yield _batch(some, bits, own, paths, done)
                done += max(1, len(some))
        if paths is not None and (unused := paths.unused()):
            self.remarks.append(f"{unused} paths of {paths.path} belong to no code.")


def _batch(some: list[Row], bits: int, own: bool, paths: Paths | None, done: int) -> CodeSet:
    for line, _, path in some:
        if bool(path) != own:
            raise FormatError(
                f"Line {line} has {'no' if own else 'a'} path, unlike the first: either all codes "
                "are followed by their paths, or none."
            )
    packed = parse_texts([text for _, text, _ in some], bits, lambda row: f"Line {some[row][0]}")
    if own:
        names = [path for _, _, path in some]
    elif paths is not None:
        names = [paths.of(number) for number in range(done, done + len(some))]
    else:
        names = [str(number) for number in range(done, done + len(some))]
    return CodeSet(packed, bits, names)


def rows(file: IO[bytes]) -> Iterator[Row]:
    """The lines of a list that hold a code.

    Raises:
        FormatError: a line holds something else.
    """
    for number, line in enumerate(lines(file, MAX_LINE), start=1):
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8").strip()
        except UnicodeDecodeError as error:
            raise FormatError(f"Line {number} is not UTF-8.") from error
        if not text or text.startswith("#"):
            continue
        found = LINE.fullmatch(text)
        if found is None:
            raise FormatError(
                f"Line {number} does not begin with a code of hex digits or bits: {text[:80]!r}."
            )
        yield number, found[1], found[2]
