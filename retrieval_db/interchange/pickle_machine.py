"""The opcodes of a pickle, read as a stream: integers, texts, tuples, lists, dicts; no more.

The format is a program for a small stack machine; Python's `pickletools` documents every opcode.
This machine knows those that build plain containers of integers and texts. What would import a
name, call something or build anything else is refused by its name. The entries of the outermost
list or dict are handed on as they come, and never held together.

What a pickle may fetch again (its *memo*) would hold every entry to the end. So nothing is
remembered at first. Only when something is fetched, the numbers of all that ever is are collected,
and the reading begins anew and remembers these alone.
"""

from __future__ import annotations

import codecs
import pickletools
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from struct import Struct
from struct import error as TooShort  # noqa: N812
from typing import IO, Any, Final, NoReturn

from ..errors import FormatError

BLOCK = 1 << 20
# No opcode with an argument of fixed size is longer.
MARGIN = 64
MAX_TEXT = 1 << 20
MAX_INTEGER = 16
MAX_DECIMAL = 64
# What lies on the stack before it is added: Python adds every 1,000 entries.
MAX_STACK = 4_000_000
MAX_MARKS = 16
MAX_ENTRY = 1_000
NEWEST_PROTOCOL = 5

# Opens the file's bytes; the file may be read more than once.
Opener = Callable[[], AbstractContextManager[IO[bytes]]]
# Some entries: their keys, or in a list their numbers from 0, and their values.
Entries = tuple[Sequence[Any], Sequence[Any]]

# Stands on the stack for the outermost container.
ROOT: Final = object()

INT4, UINT2, UINT4, UINT8 = Struct("<i"), Struct("<H"), Struct("<I"), Struct("<Q")
COUNTED = {
    **{ord("X"): UINT4, ord("T"): UINT4, 0x8D: UINT8, 0x8B: UINT4},
    **dict.fromkeys(b"U\x8c", Struct("B")),
}
LONG4 = 0x8B
ADDING, BUILDING, LINES = (
    frozenset(b"aesu."),
    frozenset(b"])}ldt\x85\x86\x87"),
    frozenset(b"ILSVpg"),
)

REFUSED = {
    ord("N"): "None",
    **dict.fromkeys(b"\x88\x89", "a boolean"),
    **dict.fromkeys(b"FG", "a float"),
    **dict.fromkeys(b"CB\x8e\x96\x97\x98", "bytes"),
    **dict.fromkeys(b"\x8f\x90\x91", "a set"),
    **dict.fromkeys(b"PQ", "a persistent reference"),
    **dict.fromkeys(b"\x82\x83\x84", "a name of the extension registry"),
    **dict.fromkeys(b"Rbo\x81\x92", "an object"),
}
NO_ENTRY = "An entry is a dict, or longer than any code."
ONLY = (
    "Only integers, texts, tuples, lists and dicts are read, because a pickle can run any code. "
    "If you trust where it comes from, open it in Python and write plain ones: "
    "pickle.dump([tuple(map(int, code)) for code in codes], file)."
)


class _Fetched(Exception):
    """The pickle fetches something that it made before."""


def entries(opened: Opener) -> Iterator[Entries]:
    """The entries of the list, tuple or dict that a pickle holds, some at a time.

    Raises:
        FormatError: it holds anything but integers, texts and their containers, it is damaged,
            or it is made to fill the memory.
    """
    done = 0
    with opened() as file, suppress(_Fetched):
        for some in _Reading(file).entries():
            yield some
            done += 1
        return
    with opened() as file:
        wanted = _fetched(file)
    with opened() as file:
        for number, some in enumerate(_Reading(file, wanted).entries()):
            if number >= done:
                yield some


def _fetched(file: IO[bytes]) -> frozenset[int]:
    """The memo numbers that are fetched anywhere in a pickle."""
    try:
        return frozenset(
            argument or 0
            for opcode, argument, _ in pickletools.genops(file)
            if opcode.name in ("GET", "BINGET", "LONG_BINGET")
        )
    except (ValueError, OverflowError, MemoryError) as error:
        raise FormatError(f"Not a pickle of Python's: {error}.") from error


class _Reading:
    """One pass over the opcodes; what it is to remember are the memo numbers in `wanted`."""

    def __init__(self, file: IO[bytes], wanted: frozenset[int] = frozenset()) -> None:
        self.file = file
        self.wanted = wanted
        self.memo: dict[int, Any] = {}
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.rows = 0
        self.memoized = 0
        self.numbered = False
        self.consumed = 0
        self.ended = False

    def entries(self) -> Iterator[Entries]:
        """Run the program."""
        data, at = b"", 0
        # The usual opcodes stand here: a function call for each would double the time.
        stack, marks, wanted = self.stack, self.marks, self.wanted
        push = stack.append
        int4, uint2, uint4 = INT4.unpack_from, UINT2.unpack_from, UINT4.unpack_from
        try:
            while True:
                if len(data) - at < MARGIN and not self.ended:
                    data, at = self._more(data, at, MARGIN), 0
                opcode = data[at]
                at += 1
                if opcode == 0x4A:  # J, BININT
                    push(int4(data, at)[0])
                    at += 4
                elif opcode == 0x8A:  # LONG1
                    end = at + 1 + data[at]
                    if end - at > MAX_INTEGER:
                        raise FormatError(f"It holds an integer of {data[at]} bytes.")
                    push(int.from_bytes(data[at + 1 : end], "little", signed=True))
                    at = end
                elif opcode == 0x28:  # (, MARK
                    marks.append(len(stack))
                elif opcode == 0x74:  # t, TUPLE
                    start = marks.pop()
                    item = tuple(stack[start:])
                    del stack[start:]
                    push(item)
                elif opcode == 0x72:  # r, LONG_BINPUT
                    self.numbered = True
                    if wanted:
                        self._put(uint4(data, at)[0])
                    at += 4
                elif opcode == 0x94:  # MEMOIZE
                    if wanted:
                        self._put(self.memoized)
                    self.memoized += 1
                elif opcode == 0x4D:  # M, BININT2
                    push(uint2(data, at)[0])
                    at += 2
                elif opcode == 0x4B:  # K, BININT1
                    push(data[at])
                    at += 1
                elif opcode in COUNTED:
                    data, at = self._counted(opcode, data, at)
                elif opcode in ADDING:
                    some = self._add(opcode)
                    if some is not None:
                        yield some
                    if opcode == 0x2E:  # ., STOP
                        return
                elif opcode in BUILDING:
                    self._build(opcode)
                elif opcode in LINES:
                    data, at = self._line(opcode, data, at)
                else:
                    at = self._rare(opcode, data, at)
        except (IndexError, TooShort):
            if self.ended and at + MARGIN > len(data):
                raise FormatError("It ends in the middle: the file is cut off.") from None
            place = self.consumed - len(data) + at
            raise FormatError(f"Not a pickle of Python's, at byte {place}.") from None

    def _more(self, data: bytes, at: int, need: int) -> bytes:
        """The data from `at` on, with `need` bytes or all that the file has."""
        if len(self.stack) > MAX_STACK:
            raise FormatError(f"It puts more than {MAX_STACK} items on the stack before using any.")
        if len(self.marks) > MAX_MARKS:
            raise FormatError("It is nested deeper than any list of codes.")
        parts, have = [data[at:]], len(data) - at
        while have < need and not self.ended:
            block = self.file.read(max(BLOCK, need - have))
            self.ended = not block
            self.consumed += len(block)
            have += len(block)
            parts.append(block)
        return b"".join(parts)

    def _put(self, number: int) -> None:
        if self.numbered and self.memoized:
            raise FormatError("It numbers what it remembers in two ways; Python never does.")
        if number in self.wanted:
            self.memo[number] = self.stack[-1]

    def _get(self, number: int) -> None:
        if number not in self.wanted:
            raise _Fetched
        if number not in self.memo or self.memo[number] is ROOT:
            raise FormatError(f"It fetches number {number} before it is made, or its own whole.")
        self.stack.append(self.memo[number])

    def _counted(self, opcode: int, data: bytes, at: int) -> tuple[bytes, int]:
        """A text, or a long integer, after the number of its bytes."""
        form = COUNTED[opcode]
        size = form.unpack_from(data, at)[0]
        at += form.size
        if opcode == LONG4:
            raise FormatError(f"It holds an integer of {size} bytes.")
        if size > MAX_TEXT:
            raise FormatError(f"It holds a text of {size} bytes; no path is so long.")
        if len(data) - at < size + MARGIN and not self.ended:
            data, at = self._more(data, at, size + MARGIN), 0
        end = at + size
        if end > len(data):
            raise IndexError
        self.stack.append(self._text(data[at:end]))
        return data, end

    def _text(self, raw: bytes) -> str:
        try:
            # As Python's pickle writes names that are not UTF-8.
            return raw.decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise FormatError(f"It holds a text that is not UTF-8: {raw[:80]!r}.") from error

    def _line(self, opcode: int, data: bytes, at: int) -> tuple[bytes, int]:
        """The opcodes of protocol 0, whose arguments are lines of text."""
        end = data.find(b"\n", at)
        if end < 0:
            data, at = self._more(data, at, MAX_TEXT), 0
            end = data.find(b"\n", at, MAX_TEXT)
            if end < 0:
                if self.ended:
                    raise IndexError
                raise FormatError("It holds a line without an end.")
        line = data[at:end]
        if opcode in b"SV":
            self.stack.append(self._quoted(line) if opcode == ord("S") else self._raw(line))
        elif opcode == ord("I") and line in (b"00", b"01"):
            self._refuse("a boolean")
        else:
            try:
                number = int(line[:MAX_DECIMAL].rstrip(b"L"))
            except ValueError:
                raise FormatError(f"It holds {line[:MAX_DECIMAL]!r} for a number.") from None
            if opcode == ord("p"):
                self.numbered = True
                self._put(number)
            elif opcode == ord("g"):
                self._get(number)
            else:
                self.stack.append(number)
        return data, end + 1

    def _quoted(self, line: bytes) -> str:
        """A byte string of Python 2, as its `repr`."""
        line = line.rstrip()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise FormatError("It holds a text without quotes.")
        try:
            return self._text(codecs.escape_decode(line[1:-1])[0])
        except ValueError as error:
            raise FormatError(f"It holds a text that cannot be read: {error}.") from error

    def _raw(self, line: bytes) -> str:
        try:
            return line.decode("raw-unicode-escape")
        except UnicodeDecodeError as error:
            raise FormatError(f"It holds a text that cannot be read: {error}.") from error

    def _build(self, opcode: int) -> None:
        """An empty container, or one of what is on the stack."""
        stack = self.stack
        if opcode in b"])}":
            made: Any = {ord("]"): list, ord(")"): tuple, ord("}"): dict}[opcode]()
            stack.append(ROOT if not stack and not self.marks and opcode != ord(")") else made)
            return
        start = len(stack) - (opcode - 0x84) if opcode in b"\x85\x86\x87" else self.marks.pop()
        if start < 0:
            raise IndexError
        items = stack[start:]
        del stack[start:]
        if opcode in b"ld":
            # Python begins these empty, too.
            made = list(items) if opcode == ord("l") else {}
            if items and opcode == ord("d"):
                raise FormatError(NO_ENTRY)
            stack.append(made if items or stack or self.marks else ROOT)
        else:
            stack.append(tuple(items))

    def _add(self, opcode: int) -> Entries | None:
        """Items into their container; those of the outermost are handed on."""
        stack = self.stack
        if opcode == ord("."):
            result = stack.pop()
            if result is ROOT:
                return None
            if not isinstance(result, (list, tuple)):
                raise FormatError(f"It holds one {type(result).__name__}, not a list or dict.")
            return range(len(result)), result
        if opcode in b"eu":
            start = self.marks.pop()
        else:
            start = len(stack) - (1 if opcode == ord("a") else 2)
        items = stack[start:]
        del stack[start:]
        target = stack[-1]
        keyed = opcode in b"us"
        if keyed and len(items) % 2:
            raise IndexError
        if target is ROOT and len(stack) == 1:
            self.rows += len(items)
            if keyed:
                return items[::2], items[1::2]
            return range(self.rows - len(items), self.rows), items
        if keyed or not isinstance(target, list) or len(target) + len(items) > MAX_ENTRY:
            raise FormatError(NO_ENTRY)
        target.extend(items)
        return None

    def _rare(self, opcode: int, data: bytes, at: int) -> int:
        """What comes once or never, and what is refused."""
        if opcode == 0x80:
            if data[at] > NEWEST_PROTOCOL:
                raise FormatError(f"It is a pickle of protocol {data[at]}, newer than any known.")
            return at + 1
        if opcode == 0x95:
            return at + 8
        if opcode == ord("q"):
            self.numbered = True
            self._put(data[at])
            return at + 1
        if opcode == ord("h"):
            self._get(data[at])
            return at + 1
        if opcode == ord("j"):
            self._get(UINT4.unpack_from(data, at)[0])
            return at + 4
        if opcode in b"ci":
            names = data[at : at + 200].split(b"\n")[:2]
            self._refuse(b".".join(names).decode("ascii", "backslashreplace"))
        if opcode == 0x93:
            self._refuse(".".join(str(name) for name in self.stack[-2:]))
        if opcode in REFUSED:
            self._refuse(REFUSED[opcode])
        raise IndexError

    def _refuse(self, what: str) -> NoReturn:
        raise FormatError(f"It holds {what}. {ONLY}")
