"""Codes as CSV: a header names the columns, a line holds an image."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, TextIO

import numpy as np
from numpy.typing import NDArray

from ..errors import FormatError, UsageError
from .codeset import CodeSet
from .files import lines, replacing, stream
from .paths import Paths
from .sources import FileSource, guess_bits, pack_words, parse_texts

WORDS = ("code_1", "code_2", "code_3", "code_4")
COLUMNS = ("path", "label", "code", "content_sha256", "metadata", "feature", "encoder")
KNOWN = {*COLUMNS, *WORDS}
DELIMITERS = ",;\t"

# A line may hold a feature of 16,000 numbers, or somebody's metadata.
MAX_LINE = 1 << 24
LOOKED_AT = 200


def is_header(line: str) -> bool:
    """Whether a line names columns of codes."""
    names = {name.strip().strip('"').lower() for name in re.split(f"[{DELIMITERS}]", line)}
    return "code" in names or names >= set(WORDS)


class CsvSource(FileSource):
    """A CSV with a header. Empty cells are what is not known; other columns are left out.

    Columns: `code` (hex digits or bits) or `code_1` to `code_4` (words); `path`; `label`;
    `content_sha256` (hex); `metadata` (JSON); `feature` (numbers in brackets); `encoder` (one
    name). Without `path`, it is looked up as in the other formats of bare codes.
    """

    kind = "csv"

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The codes in the file's order, `size` at a time.

        Raises:
            FormatError: no column of codes, a line of another length, or a cell that cannot be.
            InvalidCode, WrongWidth: codes of several widths, or of one that no code has.
            UsageError: paths are given, but the file has its own.
        """
        self.remarks = []
        with stream(self.path) as file:
            reader = _Reader(file)
            first = list(islice(reader, LOOKED_AT))
        bits = self.settings.bits or self._bits(reader, first)
        paths = self.given_paths()
        if paths is not None and "path" in reader.place:
            raise UsageError(f"{self.path} has paths of its own; leave --paths out.")
        left_out = [name for name in reader.header if name not in KNOWN]
        if left_out:
            self.remarks.append(f"Columns that are left out: {', '.join(left_out)}.")
        done = 0
        encoder = first[0][reader.place["encoder"]] if first and "encoder" in reader.place else None
        with stream(self.path) as file:
            reader = _Reader(file)
            while (rows := list(islice(reader, size))) or not done:
                table = _Table(reader, rows, done)
                yield table.code_set(bits, encoder or None, paths)
                done += max(1, len(rows))
        if paths is not None and (unused := paths.unused()):
            self.remarks.append(f"{unused} paths of {paths.path} belong to no code.")

    def _bits(self, reader: _Reader, rows: list[list[str]]) -> int:
        if "code" in reader.place:
            return guess_bits([row[reader.place["code"]] for row in rows])
        return self.settings.length


class _Reader:
    """The lines of a CSV, each with as many cells as the header."""

    def __init__(self, file: IO[bytes]) -> None:
        csv.field_size_limit(MAX_LINE)
        self._text = io.TextIOWrapper(file, "utf-8-sig", newline="")
        text = self._decoded()
        head = next(text, "")
        delimiter = max(DELIMITERS, key=head.count)
        # The header may not hold a line break; everything after it is the reader's.
        self.header = [
            name.strip().lower() for name in next(csv.reader([head], delimiter=delimiter), [])
        ]
        self.place = {name: at for at, name in enumerate(self.header) if name in KNOWN}
        self._lines = csv.reader(text, delimiter=delimiter, strict=True)
        if "code" not in self.place and not self.place.keys() >= set(WORDS):
            raise FormatError(
                "It has no column of codes. The first line names the columns: `code` (hex digits "
                "or bits) or `code_1` to `code_4`, and `path`; label, content_sha256, metadata and "
                "feature may be there."
            )

    def _decoded(self) -> Iterator[str]:
        number = 0
        try:
            for line in lines(self._text, MAX_LINE):
                yield line
                number += 1
        except UnicodeDecodeError as error:
            raise FormatError(f"Behind line {number}: not UTF-8. Save it as CSV UTF-8.") from error

    @property
    def line(self) -> int:
        """The number of the line that was read last."""
        return self._lines.line_num + 1

    def __iter__(self) -> Iterator[list[str]]:
        try:
            for row in self._lines:
                if len(row) != len(self.header) and row:
                    raise FormatError(
                        f"Line {self.line} has {len(row)} cells, not {len(self.header)}."
                    )
                if row:
                    yield row
        except csv.Error as error:
            raise FormatError(f"Line {self.line}: {error}.") from error


class _Table:
    """Some lines, by columns."""

    def __init__(self, reader: _Reader, rows: list[list[str]], first: int) -> None:
        self.count = len(rows)
        self.first = first
        columns: list[Sequence[str]] = list(zip(*rows, strict=True)) or [()] * len(reader.header)
        self.columns = {name: columns[at] for name, at in reader.place.items()}

    def code_set(self, bits: int, encoder: str | None, paths: Paths | None) -> CodeSet:
        """The codes with what belongs to them."""
        numbers = range(self.first, self.first + self.count)
        if "path" in self.columns:
            names = list(self.columns["path"])
        else:
            names = [str(number) if paths is None else paths.of(number) for number in numbers]
        if set(self.columns.get("encoder", ())) - {encoder or ""}:
            raise FormatError("It holds codes of several encoders; load those of one at a time.")
        features, there = self._features()
        return CodeSet(
            self._codes(bits),
            bits,
            names,
            labels=self._texts("label"),
            content_sha256=self._hashes(),
            features=features,
            encoder=encoder,
            metadata=self._texts("metadata"),
            has_feature=there,
        )

    def _where(self, row: int) -> str:
        return f"Code {self.first + row}"

    def _codes(self, bits: int) -> NDArray[np.uint8]:
        if "code" in self.columns:
            return parse_texts(self.columns["code"], bits, self._where)
        words = [
            word
            for row in zip(*(self.columns[name] for name in WORDS), strict=True)
            for word in row
        ]
        try:
            return pack_words(list(map(int, words)), bits, self.first)
        except ValueError as error:
            raise FormatError(f"A word of a code is no integer: {error}.") from error

    def _texts(self, name: str) -> list[str | None] | None:
        cells = self.columns.get(name)
        return None if cells is None else [cell or None for cell in cells]

    def _hashes(self) -> NDArray[np.uint8] | None:
        cells = self.columns.get("content_sha256")
        if cells is None:
            return None
        hashes = np.zeros((self.count, 32), dtype=np.uint8)
        for row, cell in enumerate(cells):
            if cell:
                try:
                    hashes[row] = np.frombuffer(bytes.fromhex(cell), dtype=np.uint8)
                except ValueError as error:
                    raise FormatError(
                        f"{self._where(row)}: content_sha256 must have 64 hex digits."
                    ) from error
        return hashes

    def _features(self) -> tuple[NDArray[np.floating] | None, NDArray[np.bool_] | None]:
        cells = self.columns.get("feature")
        if cells is None:
            return None, None
        there = np.array([bool(cell) for cell in cells], dtype=np.bool_)
        rows = []
        for row, cell in enumerate(cells):
            try:
                if cell:
                    rows.append(np.array(json.loads(cell), dtype=np.float32).reshape(-1))
            except (ValueError, TypeError, OverflowError, RecursionError) as error:
                raise FormatError(
                    f"{self._where(row)}: a feature is numbers in brackets, [0.5,1,…]."
                ) from error
        if not rows:
            return None, None
        if len(set(map(len, rows))) > 1:
            raise FormatError("The features have different numbers of dimensions.")
        features = np.zeros((self.count, len(rows[0])), dtype=np.float32)
        features[there] = rows
        return features, there


@contextmanager
def csv_writer(path: Path) -> Iterator[CsvWriter]:
    """Write a CSV batch by batch; the file is there whole or not at all.

    The batches have the same columns.
    """
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield CsvWriter(file)


class CsvWriter:
    """Takes batches of codes; see `csv_writer`."""

    def __init__(self, file: TextIO) -> None:
        self._writer = csv.writer(file)
        self._begun = False

    def write(self, batch: CodeSet) -> None:
        """Add rows."""
        columns = _columns(batch)
        if not self._begun:
            self._writer.writerow(columns)
            self._begun = True
        self._writer.writerows(zip(*columns.values(), strict=True))


def _unmistakable(digits: str) -> str:
    """Hex digits, so written that nobody takes them for bits."""
    return digits if digits.strip("01") else f"0x{digits}"


def _columns(batch: CodeSet) -> dict[str, Sequence[str | None]]:
    """The cells of each column."""
    digits = batch.bits // 4
    columns: dict[str, Sequence[str | None]] = {
        "path": batch.paths,
        "code": [_unmistakable(row.tobytes().hex()[:digits]) for row in batch.codes],
    }
    if batch.labels is not None:
        columns["label"] = batch.labels
    if batch.content_sha256 is not None:
        columns["content_sha256"] = [
            row.tobytes().hex() if known else ""
            for row, known in zip(batch.content_sha256, batch.known_hashes, strict=True)
        ]
    if batch.metadata is not None:
        columns["metadata"] = batch.metadata
    if batch.features is not None:
        columns["feature"] = [
            json.dumps(row, separators=(",", ":")) if known else ""
            for row, known in zip(
                batch.features.astype(np.float64).tolist(), batch.known_features, strict=True
            )
        ]
    if batch.encoder is not None:
        columns["encoder"] = [batch.encoder] * len(batch)
    return columns
