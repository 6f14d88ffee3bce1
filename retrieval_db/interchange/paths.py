"""The path of each code, where it stands in a file of its own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from ..errors import FormatError
from . import pickle_machine
from .files import lines, stream

# Protocol 2 and later say so; 1 begins with an empty container, or a tuple; 0 with a mark.
PICKLE = re.compile(rb"\x80[\x00-\x10]|[\]})]|\((?:[ld]p\d|[(KMJXU]|[IL]-?\d+L?\n|[SV].*\n)")
LONGEST = 1 << 12
MAX_LINE = 1 << 16


class Paths:
    """Paths by the number of their code: a pickled list or dict, or a text with one a line.

    The file is read along with the codes. Where both have the same order, nothing is held.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._rest = _entries(path)
        self._ahead: dict[object, str] = {}

    def of(self, number: object) -> str:
        """The path of a code.

        Raises:
            FormatError: there is none, or the file is not one of paths.
        """
        if number in self._ahead:
            return self._ahead.pop(number)
        for other, path in self._rest:
            if other == number:
                return path
            self._ahead[other] = path
        raise FormatError(
            f"{self.path} has no path for the code {number}: each code needs one, by its number "
            "from 0 or its key."
        )

    def unused(self) -> int:
        """How many paths are left over."""
        return len(self._ahead) + sum(1 for _ in self._rest)


def is_pickle(start: bytes) -> bool:
    """Whether a file that begins so is a pickle of a list, tuple or dict, in any protocol."""
    return PICKLE.match(start) is not None


def _entries(path: Path) -> Iterator[tuple[object, str]]:
    with stream(path) as file:
        pickled = is_pickle(file.read(LONGEST))
    if not pickled:
        yield from enumerate(_lines(path))
        return
    for keys, values in pickle_machine.entries(lambda: stream(path)):
        for key, value in zip(keys, values, strict=True):
            if not isinstance(key, int | str):
                raise FormatError(f"{path}: a key is {described(key)}, neither number nor text.")
            if not isinstance(value, str):
                raise FormatError(
                    f"{path}: entry {key} is {described(value)}, not the path of an image."
                )
            yield key, value


def _lines(path: Path) -> Iterator[str]:
    with stream(path) as file:
        for number, line in enumerate(lines(file, MAX_LINE), start=1):
            try:
                yield line.removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n").decode()
            except UnicodeDecodeError as error:
                raise FormatError(f"{path}, line {number}, is not UTF-8.") from error


def described(value: object) -> str:
    """A value's kind, for messages; never the value, which may be of any size."""
    match value:
        case str():
            return f"the text {value[:80]!r}"
        case tuple() | list():
            return f"a {type(value).__name__} of {len(value)}"
        case int():
            return "an integer"
    return f"a {type(value).__name__}"
