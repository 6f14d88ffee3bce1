"""A MySQL dump as a stream: the rows that its INSERTs put into one table.

Follows the MySQL 8.0 reference manual (sections "Literal Values", "Schema Object Names" and
"Comments") as far as dumps go. What belongs to other tables is read over without being held; of
the wanted table one row at a time must fit into memory.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from typing import IO, NoReturn

from ..errors import FormatError

BLOCK = 1 << 20
# The longest row, and the longest beginning of a statement, that is waited for.
MAX_ROW = 1 << 26
MAX_HEAD = 1 << 16

# A row as it stands in the dump: the literals of the wanted columns, and what follows it.
Row = tuple[bytes, ...]

# Columns of the old table, where neither the dump nor the INSERT names them.
COLUMNS = ("id", "path", "code_1", "code_2", "code_3", "code_4")

# `*+` and `(?>…)` never go back, so no text takes long. Groups are repeated in the latter: before
# Python 3.11.5 a possessive repetition of a group may match wrongly (cpython 100061, 106052).
SPACE = r"[ \t\r\n\f\v]"
COMMENT = r"/\*(?![M!])[^*]*+(?>(?:\*(?!/)[^*]*+)*)\*/"
GAP = rf"(?>(?:{SPACE}++|{COMMENT}|(?:--(?={SPACE})|\#)[^\n]*+\n)*)"
NAME = r'(?:`(?>(?:[^`]|``)+)`|"(?>(?:[^"]|"")+)"|[\w$\x80-\xff]++)'
SINGLE = r"'[^'\\]*+(?>(?:(?:\\.|'')[^'\\]*+)*)'"
DOUBLE = r'"[^"\\]*+(?>(?:(?:\\.|"")[^"\\]*+)*)"'
# Numbers, NULL and 0x… are words; a text may say its character set, or be hex or bits.
VALUE = rf"(?:[-+\w.]++|{SINGLE}|{DOUBLE}|(?:_\w++{GAP}|[xXbBnN])(?:{SINGLE}|{DOUBLE}))"
TABLE = rf"(?:{NAME}{GAP}\.{GAP})?({NAME})"


def pattern(text: str) -> re.Pattern[bytes]:
    return re.compile(text.encode("latin-1"), re.IGNORECASE | re.DOTALL)


WRITES = pattern(r"(?:INSERT|REPLACE)\b")
WORDS = rf"(?>(?:(?:LOW_PRIORITY|DELAYED|HIGH_PRIORITY|IGNORE|INTO)\b{GAP})*)"
INSERT = pattern(rf"(?:INSERT|REPLACE)\b{GAP}{WORDS}{TABLE}")
BEFORE_ROWS = pattern(
    rf"{GAP}(?:\(({GAP}{NAME}{GAP}(?>(?:,{GAP}{NAME}{GAP})*))\){GAP})?VALUES?(?![\w$]){GAP}"
)
CREATE = pattern(
    rf"CREATE\b{GAP}(?:TEMPORARY\b{GAP})?TABLE\b{GAP}(?:IF{GAP}NOT{GAP}EXISTS\b{GAP})?{TABLE}{GAP}\("
)
INTRODUCER = pattern(rf"_\w++{GAP}")
DELIMITER = pattern(r"DELIMITER[ \t]++(\S++)[^\n]*+(?:\n|$)")
SET_NAMES = pattern(rf"SET\b{GAP}NAMES\b{GAP}['\"]?(\w++)")
NAMES = pattern(NAME)
# The tokens of a CREATE TABLE that matter: names, what nests, what separates.
TOKENS = pattern(rf"{SINGLE}|{NAME}|[(),;]|{GAP}")
NOT_A_COLUMN = frozenset(
    ("primary", "key", "unique", "index", "constraint", "fulltext", "spatial", "foreign", "check")
)
VERSION_COMMENT = pattern(r"/\*M?!\d*+")
BETWEEN = pattern(r"[ \t\r\n\f\v;]*+")
INSIDE = {
    b"'": pattern(r"(?>(?:[^'\\]++|\\.|'')*)"),
    b'"': pattern(r'(?>(?:[^"\\]++|\\.|"")*)'),
    b"`": pattern(r"(?>(?:[^`]++|``)*)"),
}
ESCAPES = {
    b"'": pattern(r"\\(.)|''"),
    b'"': pattern(r'\\(.)|""'),
}
ESCAPED = {b"0": b"\0", b"b": b"\b", b"n": b"\n", b"r": b"\r", b"t": b"\t", b"Z": b"\x1a"}
# Only in patterns does the backslash go from these two.
ESCAPED |= {b"%": b"\\%", b"_": b"\\_"}


class Dump:
    """One reading of a dump.

    Attributes:
        tables: the tables that INSERTs were met for.
        charset: what SET NAMES said last.
        found: the wanted columns that the last rows have, in the order of their literals.
    """

    def __init__(
        self, file: IO[bytes], table: str, needed: Sequence[str], more: Sequence[str] = ()
    ) -> None:
        self.tables: set[str] = set()
        self.charset = "utf8mb4"
        self.found: tuple[str, ...] = ()
        self._file = file
        self._table = table
        self._needed, self._more = needed, more
        self._columns: tuple[str, ...] = COLUMNS
        self._delimiter = b";"
        self._data = b""
        self._at = 0
        self._read = 0
        self._ended = False

    def rows(self) -> Iterator[list[Row]]:
        """The rows of the table, some at a time, as the literals of the columns in `found`.

        Raises:
            FormatError: the dump is cut off, or not one; the message says where.
        """
        while self._next_statement():
            if found := INSERT.match(self._data, self._at):
                name = unquoted(found[1])
                self.tables.add(name)
                if name == self._table:
                    self._at = found.end()
                    yield from self._inserted()
                    continue
            elif WRITES.match(self._data, self._at):
                self._fail("an INSERT or REPLACE that cannot be read.")
            elif found := CREATE.match(self._data, self._at):
                if unquoted(found[1]) == self._table:
                    self._columns = self._created(found.end())
            elif found := SET_NAMES.match(self._data, self._at):
                self.charset = found[1].decode().lower()
            self._skip_statement()

    # The file

    def _ensure(self, need: int) -> bool:
        """Have `need` bytes from here on, if the file has so many; says whether it has."""
        have = len(self._data) - self._at
        if have < need and not self._ended:
            parts = [self._data[self._at :]]
            while have < need and not self._ended:
                block = self._file.read(max(BLOCK, need - have))
                self._ended = not block
                have += len(block)
                self._read += len(block)
                parts.append(block)
            self._data, self._at = b"".join(parts), 0
        return have >= need

    def _fail(self, message: str) -> NoReturn:
        place = self._read - len(self._data) + self._at
        raise FormatError(f"At byte {place}: {message}")

    # Statements

    def _next_statement(self) -> bool:
        """Go to the first word of the next statement; say whether there is one."""
        while self._ensure(MAX_HEAD) or self._at < len(self._data):
            data = self._data
            at = self._at = BETWEEN.match(data, self._at).end()  # type: ignore[union-attr]
            if at == len(data):
                continue
            if version := VERSION_COMMENT.match(data, at):
                # What it holds is meant to be run; but MariaDB's first line is for its client.
                self._at = version.end()
                if data.startswith(b"\\-", self._at):
                    self._skip_past(b"*/")
            elif data.startswith(b"/*", at):
                self._skip_past(b"*/")
            elif data.startswith(b"*/", at):
                self._at += 2
            elif data.startswith(b"#", at) or self._is_dashes(at):
                self._skip_past(b"\n")
            elif data.startswith(self._delimiter, at):
                self._at += len(self._delimiter)
            elif delimiter := DELIMITER.match(data, at):
                self._delimiter = delimiter[1]
                self._at = delimiter.end()
            else:
                return True
        return False

    def _is_dashes(self, at: int) -> bool:
        """Whether a comment begins: two dashes are one only before white space."""
        following = self._data[at + 2 : at + 3]
        return self._data.startswith(b"--", at) and (not following or following.isspace())

    def _skip_past(self, end: bytes) -> None:
        """Read over everything until after `end`; without it, to the end of the file."""
        self._at += len(end)
        while (found := self._data.find(end, self._at)) < 0:
            self._at = max(self._at, len(self._data) - len(end) + 1)
            if not self._ensure(len(self._data) - self._at + 1):
                self._at = len(self._data)
                return
        self._at = found + len(end)

    def _skip_statement(self) -> None:
        """Read over the rest of a statement, whatever texts and comments it holds."""
        stop = re.compile(rb"['\"`#]|--|/\*|" + re.escape(self._delimiter))
        longest = max(3, len(self._delimiter))
        while True:
            found = stop.search(self._data, self._at)
            if found is None:
                self._at = max(self._at, len(self._data) - longest + 1)
                if not self._ensure(longest):
                    self._at = len(self._data)
                    return
                continue
            self._at = found.start()
            self._ensure(longest)
            token = found[0]
            if token == self._delimiter:
                self._at += len(token)
                return
            if token in INSIDE:
                self._skip_quoted(token)
            elif token == b"#" or (token == b"--" and self._is_dashes(self._at)):
                self._skip_past(b"\n")
            elif token == b"/*" and not VERSION_COMMENT.match(self._data, self._at):
                self._skip_past(b"*/")
            else:
                self._at += len(token)

    def _skip_quoted(self, quote: bytes) -> None:
        """Read over a text or name of any length."""
        self._at += 1
        while True:
            self._at = INSIDE[quote].match(self._data, self._at).end()  # type: ignore[union-attr]
            # A quote that ends what is there may be half of a doubled one.
            if self._data.startswith(quote, self._at) and (
                self._at + 1 < len(self._data) or not self._ensure(2)
            ):
                self._at += 1
                return
            if not self._data.startswith(quote, self._at) and not self._ensure(2):
                self._fail("a text has no end; the dump is cut off.")

    def _created(self, at: int) -> tuple[str, ...]:
        """The columns of a CREATE TABLE whose parenthesis has just been opened."""
        self._at = at
        self._ensure(MAX_HEAD)
        columns, depth, first = [], 1, True
        for token in TOKENS.finditer(self._data, self._at):
            text = token[0]
            if text == b"(":
                depth += 1
            elif text == b")":
                depth -= 1
                if not depth:
                    break
            elif text == b"," and depth == 1:
                first = True
            elif first and NAMES.fullmatch(text):
                if text[:1] in b'`"' or text.lower().decode("latin-1") not in NOT_A_COLUMN:
                    columns.append(unquoted(text).lower())
                first = False
        return tuple(columns)

    # Rows

    def _inserted(self) -> Iterator[list[Row]]:
        """The rows of an INSERT whose table has just been named."""
        self._ensure(MAX_HEAD)
        before = BEFORE_ROWS.match(self._data, self._at)
        if before is None:
            self._fail(
                f"an INSERT into {self._table} without VALUES; only those of dumps are read."
            )
        self._at = before.end()
        columns = self._columns
        if before[1] is not None:
            columns = tuple(unquoted(name).lower() for name in NAMES.findall(before[1]))
        match = self._row_pattern(columns).match
        while True:
            rows, end = self._whole_rows(match)
            if rows:
                yield rows
            if end == b";":
                return
            if end is None:
                # ON DUPLICATE KEY UPDATE …
                self._skip_statement()
                return
            have = len(self._data) - self._at
            if self._ended or have > MAX_ROW:
                self._fail(
                    f"a row of {self._table} is cut off, or has not the {len(columns)} values "
                    f"({', '.join(columns)})."
                )
            self._ensure(2 * have + 1)

    def _whole_rows(
        self, match: Callable[[bytes, int], re.Match[bytes] | None]
    ) -> tuple[list[Row], bytes | None]:
        """The rows from here on as far as they are there, and what stands after the last one."""
        rows: list[Row] = []
        data, at, end = self._data, self._at, b","
        # What follows a row that ends the data is not known yet.
        last = len(data) if self._ended else len(data) - 1
        while end == b",":
            found = match(data, at)
            if found is None or found.end() > last:
                break
            row = found.groups()
            rows.append(row)
            end = row[-1]
            at = found.end()
        self._at = at
        return rows, end

    def _row_pattern(self, columns: tuple[str, ...]) -> re.Pattern[bytes]:
        """A row with its literals, those of the wanted columns captured."""
        missing = [name for name in self._needed if name not in columns]
        if missing:
            self._fail(
                f"the table {self._table} has no column {', '.join(missing)}; "
                f"it has: {', '.join(columns)}."
            )
        wanted = (*self._needed, *self._more)
        self.found = tuple(name for name in columns if name in wanted)
        values = rf"{GAP},{GAP}".join(f"({VALUE})" if name in wanted else VALUE for name in columns)
        return pattern(rf"{GAP}\({GAP}{values}{GAP}\){GAP}([,;])?")


def unquoted(name: bytes) -> str:
    """A name without its quotes."""
    quote = name[:1]
    if quote in (b"`", b'"'):
        name = name[1:-1].replace(2 * quote, quote)
    return name.decode("utf-8", "backslashreplace")


def content(literal: bytes) -> bytes | None:
    """The bytes of a literal, its quotes and escapes undone; None for NULL.

    Raises:
        FormatError: hex digits that are none.
    """
    if said := INTRODUCER.match(literal):
        literal = literal[said.end() :]
    quote = literal[:1]
    if quote in (b"'", b'"'):
        inner = literal[1:-1]
        if b"\\" not in inner and 2 * quote not in inner:
            return inner
        return ESCAPES[quote].sub(lambda found: _escaped(found, quote), inner)
    if quote in b"nN" and literal[1:2] in (b"'", b'"'):
        return content(literal[1:])
    if literal.upper() == b"NULL":
        return None
    try:
        if quote in b"xX" and literal[1:2] in (b"'", b'"'):
            return bytes.fromhex(literal[2:-1].decode("ascii"))
        if literal[:2] in (b"0x", b"0X"):
            return bytes.fromhex(literal[2:].decode("ascii"))
    except ValueError as error:
        raise FormatError(f"{literal[:80]!r} is not hex.") from error
    return literal


def _escaped(found: re.Match[bytes], quote: bytes) -> bytes:
    character = found[1]
    return quote if character is None else ESCAPED.get(character, character)


def contents(literals: Sequence[bytes]) -> list[bytes | None]:
    """The bytes of many literals; see `content`."""
    joined = b"".join(literals)
    plain = b"\\" not in joined and joined.count(b"'") == 2 * len(literals)
    if plain and {literal[:1] for literal in literals} == {b"'"}:
        # Texts without anything to undo.
        return [literal[1:-1] for literal in literals]
    return list(map(content, literals))


def integer(literal: bytes) -> int | None:
    """The integer that a literal is, with or without quotes; None for NULL.

    Raises:
        FormatError: it is none.
    """
    if literal[:2] in (b"0x", b"0X"):
        return int(literal, 16)
    text = content(literal)
    if text is None:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise FormatError(f"{literal[:80]!r} is not an integer.") from error
