"""The SQL dump of the MySQL era: table `img` with a path and four words of a code."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import cast

from ..errors import FormatError, UsageError
from . import mysql_lexer
from .codeset import CodeSet
from .files import stream
from .sources import FileSource, pack_words

WORDS = ("code_1", "code_2", "code_3", "code_4")
NEEDED = ("path", *WORDS)
LABEL = "label"

# What MySQL calls its character sets, where Python can decode each byte of it by itself.
CHARSETS = {
    **dict.fromkeys(("utf8", "utf8mb3", "utf8mb4", "ascii", "binary", "default"), "utf-8"),
    "latin1": "cp1252",
}

AGAIN = "Dump it again with --default-character-set=utf8mb4."


class DumpSource(FileSource):
    """A dump by `mysqldump` or `mariadb-dump`, plain or compressed.

    The columns are taken from the INSERT, else from the dump's CREATE TABLE, else they are id,
    path, code_1 to code_4. A column `label` is taken along; ids are given anew.
    """

    kind = "mysql"

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The codes in the dump's order, `size` at a time.

        Rows without a path or code are left out, and counted in `remarks`.

        Raises:
            FormatError: it is cut off, is not a dump, or has no rows of the table.
            WrongWidth: a word has more than L/4 bits.
            UsageError: paths are given, but the dump has its own.
        """
        if self.settings.paths is not None:
            raise UsageError(f"{self.path} has paths of its own; leave --paths out.")
        self.remarks = []
        self._null = self._done = 0
        with stream(self.path) as file:
            dump = mysql_lexer.Dump(file, self.settings.table, NEEDED, (LABEL,))
            waiting: list[mysql_lexer.Row] = []
            columns: tuple[str, ...] = ()
            for rows in dump.rows():
                if columns != dump.found and waiting:
                    yield self._batch(waiting, columns, dump.charset)
                    waiting = []
                columns = dump.found
                waiting += rows
                while len(waiting) >= size:
                    yield self._batch(waiting[:size], columns, dump.charset)
                    del waiting[:size]
            if waiting:
                yield self._batch(waiting, columns, dump.charset)
            elif not self._done:
                raise FormatError(
                    f"It has no rows of the table {self.settings.table}; "
                    + (
                        f"--table names another: {', '.join(sorted(dump.tables))}."
                        if dump.tables
                        else "it has no INSERTs at all."
                    )
                )
        if self._null:
            self.remarks.append(f"{self._null} rows without a path or code are left out.")

    def _batch(
        self, rows: list[mysql_lexer.Row], columns: tuple[str, ...], charset: str
    ) -> CodeSet:
        # The last of each row is what follows it in the dump.
        by_name = dict(zip((*columns, ""), zip(*rows, strict=True), strict=True))
        paths = _texts(by_name["path"], charset)
        labels = _texts(by_name[LABEL], charset) if LABEL in columns else None
        words = list(zip(*(_integers(by_name[name]) for name in WORDS), strict=True))
        if not all(paths) or any(None in four for four in words):
            whole = [row for row, path in enumerate(paths) if path and None not in words[row]]
            self._null += len(rows) - len(whole)
            paths = [paths[row] for row in whole]
            labels = labels and [labels[row] for row in whole]
            words = [words[row] for row in whole]
        flat = list(chain.from_iterable(words))
        packed = pack_words(cast("list[int]", flat), self.settings.bits, self._done)
        self._done += len(rows)
        return CodeSet(packed, self.settings.length, cast("list[str]", paths), labels=labels)


def _texts(literals: Sequence[bytes], charset: str) -> list[str | None]:
    encoding = CHARSETS.get(charset)
    if encoding is None:
        raise FormatError(f"It is in the character set {charset}. {AGAIN}")
    try:
        return [
            None if raw is None else raw.decode(encoding) for raw in mysql_lexer.contents(literals)
        ]
    except UnicodeDecodeError as error:
        raise FormatError(f"The text {error.object[:80]!r} is not in {charset}. {AGAIN}") from error


def _integers(literals: Sequence[bytes]) -> Sequence[int | None]:
    try:
        return list(map(int, literals))
    except ValueError:
        return list(map(mysql_lexer.integer, literals))
