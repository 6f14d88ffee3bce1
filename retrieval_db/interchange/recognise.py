"""Which format a file has, seen from its content."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..errors import FormatError, UsageError
from . import csv_table, text_list
from .codeset import CodeSet, joined
from .csv_table import CsvSource
from .files import compression, stream
from .mysql_dump import DumpSource
from .npz import NpzSource
from .parquet import ParquetSource
from .paths import is_pickle
from .pickled import PickleSource
from .sources import Settings, Source, Spooled
from .text_list import ListSource

LOOKED_AT = 1 << 16
# More rows than anybody holds in memory.
WHOLE = 1 << 40

SOURCES: dict[str, Callable[[Path, Settings], Source]] = {
    "npz": lambda path, settings: NpzSource(path),
    "parquet": ParquetSource,
    "csv": CsvSource,
    "list": ListSource,
    "pickle": PickleSource,
    "mysql": DumpSource,
}
# Those that are read from several places at once, and quickly.
SEEKING = ("npz", "parquet")

# How a dump begins: a comment, or a statement.
DUMP = re.compile(
    rb"\s*(?:--[ \t\r\n]|/\*|(?:DROP|CREATE|INSERT|REPLACE|SET|LOCK|USE|START|BEGIN|DELIMITER)\s)",
    re.IGNORECASE,
)


def open_source(path: Path, settings: Settings | None = None, kind: str | None = None) -> Source:
    """A file of codes, in the format that `kind` names or that its content shows.

    Raises:
        FormatError: there is no such file, or its content shows no format of codes.
        UsageError: no format has that name, or what is given does not go with it.
    """
    settings = settings or Settings()
    if kind is not None and kind not in SOURCES:
        raise UsageError(f"There is no format {kind!r}; there are: {', '.join(SOURCES)}.")
    packed = compression(path)
    kind = kind or recognised(path)
    if kind in SEEKING and packed is not None:
        raise FormatError(
            f"{path} is compressed with {packed}: unpack it first, for {kind} is read at several "
            "places at once."
        )
    if kind == "npz":
        for option, given in (("paths", settings.paths), ("bits", settings.bits)):
            if given is not None:
                raise UsageError(f"An npz has {option} of its own; leave --{option} out.")
    source = SOURCES[kind](path, settings)
    return source if kind in SEEKING else Spooled(source)


def read_codes(path: Path) -> CodeSet:
    """A whole file of codes, in memory, in any format.

    Raises:
        FormatError, CodeError: see `open_source` and its source.
    """
    return joined(list(open_source(path).batches(WHOLE)))


def recognised(path: Path) -> str:
    """The format of a file, by its first bytes, unpacked if need be.

    Raises:
        FormatError: none of ours.
    """
    with stream(path) as file:
        start = file.read(LOOKED_AT)
    if start[:4] in (b"PK\3\4", b"PK\5\6"):
        return "npz"
    if start[:4] == b"PAR1":
        return "parquet"
    if is_pickle(start):
        return "pickle"
    if DUMP.match(start):
        return "mysql"
    lines = [line for line in start.decode("utf-8-sig", "replace").splitlines() if line.strip()]
    if lines and csv_table.is_header(lines[0]):
        return "csv"
    code = next((line for line in lines if not line.startswith("#")), "")
    if text_list.LINE.fullmatch(code.strip()):
        return "list"
    raise FormatError(
        f"{path} is in no format of codes: npz, Parquet, CSV (its first line names the columns "
        "code or code_1 to code_4), a list of hex digits or bits, a pickle, or a MySQL dump. "
        "--format says which it is meant to be."
    )
