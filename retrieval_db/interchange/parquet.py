"""Codes as Parquet, with what is known of their encoder in the file's metadata. Needs pyarrow."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codes
from ..errors import FormatError, MissingExtra, UsageError, WrongWidth
from .codeset import CodeSet
from .files import named, replacing
from .paths import Paths
from .sources import FileSource, guess_bits, pack_words, parse_texts

WORDS = ("code_1", "code_2", "code_3", "code_4")
COLUMNS = ("path", "label", "code", "content_sha256", "metadata", "feature", *WORDS)

# The key of the file's metadata under which the encoder is described, as JSON.
KEY = b"retrieval_db"
HEAD = {"encoder": str, "bits": int, "fingerprint": str, "config": str, "root": str}
LOOKED_AT = 200


def pyarrow() -> Any:
    """The package, imported when it is needed.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise MissingExtra(
            "Parquet needs pyarrow: pip install 'retrieval-db[formats]'. CSV and npz work without."
        ) from error
    return pyarrow


class ParquetSource(FileSource):
    """A Parquet file. Nulls are what is not known; other columns are left out.

    Columns: `code` (bytes in `np.packbits` order, hex digits, or bits) or `code_1` to `code_4`
    (words); `path`; `label`; `content_sha256` (bytes or hex); `metadata` (JSON); `feature` (a list
    of floats). Texts may be bytes of UTF-8, or integers. Without `path`, it is looked up as in the
    other formats of bare codes.
    """

    kind = "parquet"

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The codes in the file's order, `size` at a time; of an empty file one empty batch.

        Raises:
            MissingExtra: pyarrow is not installed.
            FormatError: not a Parquet file, no column of codes, or values that cannot be.
            InvalidCode, WrongWidth: codes of several widths, or of one that no code has.
            UsageError: paths are given, but the file has its own.
        """
        arrow = pyarrow()
        self.remarks = []
        paths = self.given_paths()
        done = 0
        with (
            named(self.path, "is not a Parquet file of codes"),
            arrow.parquet.ParquetFile(self.path, pre_buffer=False) as file,
        ):
            names = [name for name in file.schema_arrow.names if name in COLUMNS]
            self._check(file.schema_arrow.names, paths)
            head = _head(file.schema_arrow.metadata or {})
            bits = self._agreed(head.pop("bits", None))
            for some in file.iter_batches(size, columns=names):
                if not len(some) and done:
                    continue
                table = _Table({name: some.column(name) for name in names}, done)
                bits = bits or self._bits(table)
                yield table.code_set(bits, head, paths)
                done += max(1, len(some))
            if not done:
                empty = file.schema_arrow.empty_table().combine_chunks()
                table = _Table({name: empty.column(name).combine_chunks() for name in names}, 0)
                yield table.code_set(bits or self.settings.length, head, paths)
        if paths is not None and (unused := paths.unused()):
            self.remarks.append(f"{unused} paths of {paths.path} belong to no code.")

    def _check(self, names: list[str], paths: Paths | None) -> None:
        if "code" not in names and not set(WORDS) <= set(names):
            raise FormatError(
                "It has no column of codes: `code` (bytes, hex digits or bits), or `code_1` to "
                f"`code_4`. It has: {', '.join(names)}."
            )
        if twice := [name for name in COLUMNS if names.count(name) > 1]:
            raise FormatError(f"It has several columns called {', '.join(twice)}.")
        if paths is not None and "path" in names:
            raise UsageError(f"{self.path} has paths of its own; leave --paths out.")
        if left_out := [name for name in names if name not in COLUMNS]:
            self.remarks.append(f"Columns that are left out: {', '.join(left_out)}.")

    def _agreed(self, own: int | None) -> int | None:
        """L, as the file or its user says."""
        given = self.settings.bits
        if given is not None and own not in (None, given):
            raise WrongWidth(f"{self.path} says that its codes have {own} bits; leave --bits out.")
        return given or own

    def _bits(self, table: _Table) -> int:
        if "code" not in table.columns:
            return self.settings.length
        some = [value for value in table.columns["code"][:LOOKED_AT].to_pylist() if value]
        if some and isinstance(some[0], bytes):
            return codes.check_bits(8 * len(some[0]))
        return guess_bits([str(value) for value in some])


class _Table:
    """Some rows, by columns, each an Arrow array."""

    def __init__(self, columns: dict[str, Any], first: int) -> None:
        self.columns = columns
        self.first = first
        self.count = len(next(iter(columns.values())))

    def code_set(self, bits: int, head: dict[str, Any], paths: Paths | None) -> CodeSet:
        """The codes with what belongs to them."""
        features, there = self._features()
        return CodeSet(
            self._codes(bits),
            bits,
            self._paths(paths),
            labels=self._texts("label"),
            content_sha256=self._hashes(),
            features=features,
            metadata=self._texts("metadata"),
            has_feature=there,
            **head,
        )

    def _where(self, row: int) -> str:
        return f"Row {self.first + row}"

    def _whole(self, name: str) -> Any:
        column = self.columns[name]
        if column.null_count:
            raise FormatError(f"The column {name} has rows without a value.")
        return column

    def _paths(self, paths: Paths | None) -> list[str]:
        if "path" in self.columns:
            return [_text("path", path) for path in self._whole("path").to_pylist()]
        numbers = range(self.first, self.first + self.count)
        return [str(number) if paths is None else paths.of(number) for number in numbers]

    def _codes(self, bits: int) -> NDArray[np.uint8]:
        if "code" not in self.columns:
            words = [self._whole(name).to_pylist() for name in WORDS]
            flat = [word for row in zip(*words, strict=True) for word in row]
            if not set(map(type, flat)) <= {int}:
                raise FormatError("The words of a code must be integers.")
            return pack_words(flat, bits, self.first)
        values = self._whole("code").to_pylist()
        if values and isinstance(values[0], str):
            return parse_texts(values, bits, self._where)
        size = codes.packed_size(bits)
        if any(not isinstance(value, bytes) or len(value) != size for value in values):
            raise FormatError(f"The column code must hold {size} bytes a row, or texts.")
        return np.frombuffer(b"".join(values), dtype=np.uint8).reshape(-1, size)

    def _texts(self, name: str) -> list[str | None] | None:
        if name not in self.columns:
            return None
        values = self.columns[name].to_pylist()
        if name == "metadata":
            values = [
                value if value is None or isinstance(value, (str, bytes)) else json.dumps(value)
                for value in values
            ]
        return [None if value is None else _text(name, value) for value in values]

    def _hashes(self) -> NDArray[np.uint8] | None:
        if "content_sha256" not in self.columns:
            return None
        hashes = np.zeros((self.count, 32), dtype=np.uint8)
        for row, value in enumerate(self.columns["content_sha256"].to_pylist()):
            if value:
                digest = bytes.fromhex(value) if isinstance(value, str) else value
                if not isinstance(digest, bytes) or len(digest) != 32:
                    raise FormatError(f"{self._where(row)}: content_sha256 must have 32 bytes.")
                hashes[row] = np.frombuffer(digest, dtype=np.uint8)
        return hashes

    def _features(self) -> tuple[NDArray[np.floating] | None, NDArray[np.bool_] | None]:
        column = self.columns.get("feature")
        if column is None:
            return None, None
        there = np.asarray(column.is_valid().to_numpy(zero_copy_only=False), dtype=np.bool_)
        if not there.any():
            return None, None
        types = pyarrow().types
        lists = (types.is_list, types.is_large_list, types.is_fixed_size_list)
        if not any(is_list(column.type) for is_list in lists):
            raise FormatError(f"The features must be lists of floats, not {column.type}.")
        lengths = set(column.value_lengths().drop_null().to_pylist())
        if len(lengths) > 1:
            raise FormatError("The features have different numbers of dimensions.")
        (dimensions,) = lengths
        # Without the rows that have none: whether their place holds numbers depends on the type.
        values = column.drop_null().flatten()
        if values.null_count:
            raise FormatError("A feature has a number that is null.")
        numbers = values.to_numpy(zero_copy_only=False)
        if numbers.dtype.kind != "f":
            raise FormatError(f"The features must be floats, not {numbers.dtype}.")
        features = np.zeros((self.count, dimensions), dtype=numbers.dtype)
        features[there] = numbers.reshape(-1, dimensions)
        return features, there


def _text(name: str, value: Any) -> str:
    """A text from a value of a column, whichever of the usual types it has."""
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        try:
            return value.decode()
        except UnicodeDecodeError as error:
            raise FormatError(f"The column {name} has bytes that are not UTF-8.") from error
    if type(value) is int:
        return str(value)
    raise FormatError(f"The column {name} must hold texts, not {type(value).__name__}.")


def _head(metadata: dict[bytes, bytes]) -> dict[str, Any]:
    """What the file says of the encoder."""
    try:
        known = json.loads(metadata.get(KEY, b"{}"))
        for name, kind in HEAD.items():
            if not isinstance(known.get(name), kind | None):
                raise TypeError(name)
        artifact = known.get("artifact")
        return {
            **{name: known.get(name) for name in HEAD},
            "artifact": None if artifact is None else base64.b64decode(artifact),
        }
    except (ValueError, AttributeError, TypeError) as error:
        raise FormatError("Its metadata under `retrieval_db` cannot be read.") from error


@contextmanager
def parquet_writer(path: Path) -> Iterator[ParquetWriter]:
    """Write a Parquet file batch by batch; it is there whole or not at all.

    The batches have the same columns.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    arrow = pyarrow()
    with replacing(path) as temporary:
        writer = ParquetWriter(arrow, temporary)
        try:
            yield writer
        finally:
            writer.close()


class ParquetWriter:
    """Takes batches of codes; see `parquet_writer`."""

    def __init__(self, arrow: Any, path: Path) -> None:
        self._arrow = arrow
        self._path = path
        self._writer: Any = None

    def write(self, batch: CodeSet) -> None:
        """Add rows."""
        if self._writer is None:
            self._schema = self._schema_of(batch)
            self._writer = self._arrow.parquet.ParquetWriter(
                self._path, self._schema, compression="zstd"
            )
        columns = self._columns(batch)
        self._writer.write_table(self._arrow.Table.from_arrays(columns, schema=self._schema))

    def close(self) -> None:
        """Write the end of the file."""
        if self._writer is not None:
            self._writer.close()

    def _schema_of(self, batch: CodeSet) -> Any:
        arrow = self._arrow
        fields = [
            arrow.field("path", arrow.string(), nullable=False),
            arrow.field("code", arrow.binary(codes.packed_size(batch.bits)), nullable=False),
        ]
        if batch.labels is not None:
            fields.append(arrow.field("label", arrow.string()))
        if batch.content_sha256 is not None:
            fields.append(arrow.field("content_sha256", arrow.binary(32)))
        if batch.metadata is not None:
            fields.append(arrow.field("metadata", arrow.string()))
        if batch.features is not None:
            kind = arrow.from_numpy_dtype(batch.features.dtype)
            fields.append(arrow.field("feature", arrow.list_(kind, batch.features.shape[1])))
        head: dict[str, Any] = {name: getattr(batch, name) for name in HEAD}
        if batch.artifact is not None:
            head["artifact"] = base64.b64encode(batch.artifact).decode()
        return arrow.schema(fields, metadata={KEY: json.dumps(head).encode()})

    def _columns(self, batch: CodeSet) -> list[Any]:
        arrow = self._arrow
        columns = [
            arrow.array(list(batch.paths), arrow.string()),
            arrow.array([row.tobytes() for row in batch.codes], self._schema.field("code").type),
        ]
        if batch.labels is not None:
            columns.append(arrow.array([label or None for label in batch.labels], arrow.string()))
        if batch.content_sha256 is not None:
            known = zip(batch.content_sha256, batch.known_hashes, strict=True)
            digests = [row.tobytes() if there else None for row, there in known]
            columns.append(arrow.array(digests, arrow.binary(32)))
        if batch.metadata is not None:
            columns.append(arrow.array([text or None for text in batch.metadata], arrow.string()))
        if batch.features is not None:
            flat = arrow.array(np.ascontiguousarray(batch.features).reshape(-1))
            columns.append(
                arrow.FixedSizeListArray.from_arrays(
                    flat, batch.features.shape[1], mask=arrow.array(~batch.known_features)
                )
            )
        return columns
