"""Codes as `.npz`: one array for each column, read and written batch by batch."""

from __future__ import annotations

import json
import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .. import codes, errors
from .codeset import COLUMNS, CodeSet, check_count, described
from .files import replacing

REQUIRED = ("codes", "bits", "paths")
# Arrays that there is one of; those with a row for each code are the columns of a CodeSet.
HEAD = ("bits", "encoder", "encoder_fingerprint", "encoder_config", "encoder_artifact", "root")
# Padded to the longest of them, and so well compressed.
TEXTS = ("paths", "labels", "metadata")

# Where the header of an encoder's safetensors holds its name and config.
ARTIFACT_KEY = "retrieval_db_encoder"

# A header of numpy's says type and shape; longer ones are refused by numpy, too.
MAX_HEADER = 10_000


class NpzSource:
    """A `.npz` of codes, in which no array is held whole. Pickled objects are refused."""

    kind = "npz"
    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The rows in order, `size` at a time; of an empty file one empty batch.

        Raises:
            FormatError: not an npz, an array is missing, or one has the wrong type or shape.
            InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
        """
        with _reading(self.path), ExitStack() as members:
            archive = members.enter_context(zipfile.ZipFile(self.path))
            arrays = {
                name: members.enter_context(_Array.opened(archive, name))
                for name in (*HEAD, *COLUMNS)
                if _is_array(archive, name)
            }
            missing = [name for name in REQUIRED if name not in arrays]
            if missing:
                raise errors.FormatError(
                    f"{self.path} lacks {', '.join(missing)}. An npz of codes has: codes uint8 "
                    "[N, L/8] (np.packbits), bits, paths [N]."
                )
            count = arrays["codes"].count
            long = {name: arrays[name] for name in COLUMNS if name in arrays and arrays[name].shape}
            whole = {name: array.rest() for name, array in arrays.items() if name not in long}
            with _named(self.path):
                for name, array in long.items():
                    check_count(count, name, array.count)
            for start in range(0, max(1, count), size):
                rows = min(size, count - start)
                part = {name: array.read(rows) for name, array in long.items()}
                with _named(self.path):
                    items = _code_set(whole | part)
                yield items
            for array in long.values():
                array.finish()


def read_npz(path: Path) -> CodeSet:
    """Read a `.npz` of codes; never with pickle allowed.

    Raises:
        FormatError: not an npz, an array is missing, or one has the wrong type or shape.
        InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
    """
    (items,) = NpzSource(Path(path)).batches(1 << 62)
    return items


def write_npz(path: Path, items: CodeSet) -> None:
    """Write a `.npz` of codes; the file is there whole or not at all."""
    with npz_writer(path) as writer:
        writer.write(items)


@contextmanager
def npz_writer(path: Path) -> Iterator[NpzWriter]:
    """Write a `.npz` batch by batch; the file is there whole or not at all.

    The batches have the same columns. An npz holds its arrays one after the other, so each
    waits in a temporary file beside `path` until all rows are known.
    """
    with replacing(path) as temporary, ExitStack() as spools:
        writer = NpzWriter(path.parent, spools)
        yield writer
        writer.finish(temporary)


class NpzWriter:
    """Takes batches of codes; see `npz_writer`."""

    def __init__(self, folder: Path, spools: ExitStack) -> None:
        self._folder = folder
        self._open = spools
        self._spools: dict[str, tuple[IO[bytes], list[tuple[np.dtype[Any], tuple[int, ...]]]]] = {}
        self._head: dict[str, Any] = {}

    def write(self, batch: CodeSet) -> None:
        """Add rows."""
        self._head = _head(batch)
        for name, array in _columns(batch).items():
            if name not in self._spools:
                spool = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._spools[name] = self._open.enter_context(spool), []
            file, blocks = self._spools[name]
            blocks.append((array.dtype, array.shape))
            np.save(file, array, allow_pickle=False)

    def finish(self, path: Path) -> None:
        """Put the arrays into one file."""
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name, value in self._head.items():
                array = np.asarray(value)
                _write_array(archive, name, array.dtype, array.shape, [array])
            for name, (file, blocks) in self._spools.items():
                file.seek(0)
                dtype = np.result_type(*(block for block, _ in blocks))
                shape = (sum(block[0] for _, block in blocks), *blocks[0][1][1:])
                parts = (np.load(file, allow_pickle=False).astype(dtype) for _ in blocks)
                _write_array(archive, name, dtype, shape, parts)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[NDArray[Any]],
) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")
    entry.compress_type = zipfile.ZIP_DEFLATED if name in TEXTS else zipfile.ZIP_STORED
    entry._compresslevel = 1  # type: ignore[attr-defined]
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)  # type: ignore[no-untyped-call, unused-ignore]
        for part in parts:
            member.write(part.tobytes())


def _columns(batch: CodeSet) -> dict[str, NDArray[Any]]:
    """The arrays that have a row for each code."""
    columns = {
        "codes": batch.codes,
        "paths": np.array(list(batch.paths), dtype=np.str_),
        "labels": None if batch.labels is None else _padded(batch.labels),
        "content_sha256": batch.content_sha256,
        "metadata": None if batch.metadata is None else _padded(batch.metadata),
        "features": batch.features,
        "has_feature": batch.has_feature,
    }
    return {name: array for name, array in columns.items() if array is not None}


def _head(batch: CodeSet) -> dict[str, Any]:
    """The arrays that there is one of."""
    head: dict[str, Any] = {"bits": np.int64(batch.bits)}
    if batch.artifact is not None:
        head["encoder_artifact"] = np.frombuffer(batch.artifact, dtype=np.uint8)
    texts = {
        "encoder": batch.encoder,
        "encoder_fingerprint": batch.fingerprint,
        "encoder_config": batch.config,
        "root": batch.root,
    }
    return head | {name: np.str_(value) for name, value in texts.items() if value is not None}


def _padded(texts: Any) -> NDArray[Any]:
    return np.array([text or "" for text in texts], dtype=np.str_)


class _Array:
    """A member of the archive, read row by row."""

    def __init__(
        self, name: str, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._file = file

    @classmethod
    @contextmanager
    def opened(cls, archive: zipfile.ZipFile, name: str) -> Iterator[_Array]:
        with archive.open(f"{name}.npy") as file:
            shape, fortran, dtype = _header(name, file)
            if fortran and len(shape) > 1:
                # Column by column: only as a whole can its rows be had.
                with archive.open(f"{name}.npy") as again:
                    whole = np.lib.format.read_array(again, allow_pickle=False)
                yield _Held(name, np.ascontiguousarray(whole))
            else:
                yield cls(name, file, shape, dtype)

    @property
    def count(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, rows: int) -> NDArray[Any]:
        return self._take((rows, *self.shape[1:]))

    def _take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.name} ends in the middle")
        return (
            np.frombuffer(data, self.dtype).reshape(shape) if size else np.empty(shape, self.dtype)
        )

    def rest(self) -> NDArray[Any]:
        """All of an array that has no rows."""
        array = self._take(self.shape)
        self.finish()
        return array

    def finish(self) -> None:
        """Read to the end, where the archive holds the checksum against what was read."""
        if self._file.read(1):
            raise ValueError(f"{self.name} has more data than its header says")


class _Held(_Array):
    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.shape, self.dtype = name, array.shape, array.dtype
        self._array, self._start = array, 0

    def read(self, rows: int) -> NDArray[Any]:
        self._start += rows
        return self._array[self._start - rows : self._start]

    def finish(self) -> None:
        pass


def _is_array(archive: zipfile.ZipFile, name: str) -> bool:
    try:
        with archive.open(f"{name}.npy") as file:
            return file.read(len(np.lib.format.MAGIC_PREFIX)) == np.lib.format.MAGIC_PREFIX
    except KeyError:
        return False


def _header(name: str, file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    readers = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }
    if version not in readers:
        raise ValueError(f"{name} is of version {version}")
    shape, fortran, dtype = readers[version](file, max_header_size=MAX_HEADER)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    return shape, fortran, dtype


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except errors.RetrievalError as error:
        raise type(error)(f"{path}: {error}") from error


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise errors.FormatError(f"{path} is not an npz file.")
        yield
    except FileNotFoundError as error:
        raise errors.FormatError(f"There is no file {path}.") from error
    # zipfile and NumPy raise many types on damaged files.
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.error) as error:
        raise errors.FormatError(f"{path} is not an npz of plain arrays: {error}") from error
    except zlib.error as error:
        raise errors.FormatError(f"{path} is damaged: {error}") from error


def _code_set(arrays: Mapping[str, NDArray[Any]]) -> CodeSet:
    artifact = _artifact(arrays)
    labels, metadata = arrays.get("labels"), arrays.get("metadata")
    return CodeSet(
        codes=arrays["codes"],
        bits=codes.check_bits(_integer("bits", arrays["bits"])),
        paths=_texts("paths", arrays["paths"]),
        labels=None if labels is None else _labels(labels),
        content_sha256=_hashes(arrays.get("content_sha256")),
        features=arrays.get("features"),
        encoder=_text(arrays, "encoder"),
        fingerprint=_text(arrays, "encoder_fingerprint"),
        config=_text(arrays, "encoder_config") or _config_of(artifact),
        artifact=artifact,
        root=_text(arrays, "root"),
        metadata=None if metadata is None else _texts("metadata", metadata),
        has_feature=arrays.get("has_feature"),
    )


def _integer(name: str, array: NDArray[Any]) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise errors.FormatError(f"{name} must be one integer, not {described(array)}.")
    return int(array.item())


def _text(arrays: Mapping[str, NDArray[Any]], name: str) -> str | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.size != 1:
        raise errors.FormatError(f"{name} must be one text, not {described(array)}.")
    return _texts(name, array.reshape(1))[0]


def _texts(name: str, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise errors.FormatError(f"{name} must be texts [N], not {described(array)}.")
    try:
        decoded = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise errors.FormatError(f"{name} must be UTF-8.") from error
    texts: list[str] = decoded.tolist()
    return texts


def _labels(array: NDArray[Any]) -> list[str]:
    """Texts, or the numbers of classes as texts."""
    return _texts("labels", array.astype(np.str_) if array.dtype.kind in "iu" else array)


def _hashes(array: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    """Bytes as they are, or from hex texts; an empty text is a hash that is not known."""
    if array is None or array.dtype.kind not in "US":
        return array
    try:
        data = [
            bytes.fromhex(text) if text else bytes(32) for text in _texts("content_sha256", array)
        ]
    except ValueError as error:
        raise errors.FormatError("content_sha256 is not hex.") from error
    if any(len(digest) != 32 for digest in data):
        raise errors.FormatError("content_sha256 must have 64 hex digits each.")
    return np.frombuffer(b"".join(data), dtype=np.uint8).reshape(-1, 32)


def _artifact(arrays: Mapping[str, NDArray[Any]]) -> bytes | None:
    array = arrays.get("encoder_artifact")
    if array is None:
        return None
    if array.dtype != np.uint8:
        raise errors.FormatError(f"encoder_artifact must be uint8, not {described(array)}.")
    return array.tobytes()


def _config_of(artifact: bytes | None) -> str | None:
    """The config in an artifact's header, where the file does not give it by itself."""
    if artifact is None:
        return None
    size = int.from_bytes(artifact[:8], "little")
    try:
        header = json.loads(artifact[8 : 8 + size])["__metadata__"][ARTIFACT_KEY]
        return json.dumps(json.loads(header)["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.FormatError("encoder_artifact is not an encoder's safetensors.") from error
