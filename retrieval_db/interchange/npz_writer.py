"""Codes into a `.npz`, batch by batch: one array for each column, two for one of long texts."""

from __future__ import annotations

import pickle
import tempfile
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from .codeset import CodeSet
from .files import replacing
from .npy import OFFSETS, UTF8

# Padded to the longest of them, and so well compressed; but not to more characters than that,
# for a batch of rows is held as long when it is read.
TEXTS = ("paths", "labels", "metadata")
WIDEST = 1_000

# Rows of a set in memory that are made into arrays at a time.
AT_ONCE = 20_000


def write_npz(path: Path | str, items: CodeSet) -> None:
    """Write a `.npz` of codes; the file is there whole or not at all."""
    with npz_writer(Path(path)) as writer:
        for batch in items.batches(AT_ONCE):
            writer.write(batch)


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
        self._spools: dict[str, _Spool] = {}
        self._head: dict[str, Any] = {}

    def write(self, batch: CodeSet) -> None:
        """Add rows."""
        self._head = _head(batch)
        for name, part in _columns(batch).items():
            if name not in self._spools:
                file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115
                self._spools[name] = _Spool(self._open.enter_context(file))
            self._spools[name].add(part)

    def finish(self, path: Path) -> None:
        """Put the arrays into one file."""
        with zipfile.ZipFile(path, "w", allowZip64=True) as archive:
            for name, value in self._head.items():
                array = np.asarray(value)
                _write_array(archive, name, array.dtype, array.shape, [array])
            for name, spool in self._spools.items():
                if name not in TEXTS:
                    shape = (spool.rows, *spool.row_shape)
                    _write_array(archive, name, spool.dtype, shape, spool.parts())
                # Labels and metadata that no row has are none.
                elif spool.longest or name == "paths":
                    _write_texts(archive, name, spool)


class _Spool:
    """The parts of a column, in a temporary file.

    Attributes:
        rows: how many.
        dtype, row_shape: of all rows, if they are arrays.
        longest: how many characters the longest text has, if they are texts.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._count = 0
        self._dtypes: set[np.dtype[Any]] = set()
        self.rows = 0
        self.row_shape: tuple[int, ...] = ()
        self.longest = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.result_type(*self._dtypes)

    def add(self, part: NDArray[Any] | list[str]) -> None:
        if isinstance(part, list):
            self.longest = max(self.longest, max(map(len, part), default=0))
        else:
            self._dtypes.add(part.dtype)
            self.row_shape = part.shape[1:]
        self.rows += len(part)
        self._count += 1
        pickle.dump(part, self._file, pickle.HIGHEST_PROTOCOL)

    def parts(self) -> Iterator[Any]:
        """What was added, from the start."""
        self._file.seek(0)
        # Nobody else can write to this file: it has no name.
        return (pickle.load(self._file) for _ in range(self._count))


def _write_texts(archive: zipfile.ZipFile, name: str, spool: _Spool) -> None:
    if spool.longest <= WIDEST:
        dtype = np.dtype(f"U{max(1, spool.longest)}")
        padded = (np.array(texts, dtype) for texts in spool.parts())
        _write_array(archive, name, dtype, (spool.rows,), padded)
        return
    total = 0

    def offsets() -> Iterator[NDArray[np.int64]]:
        nonlocal total
        yield np.zeros(1, np.int64)
        for texts in spool.parts():
            ends = total + np.cumsum([len(text.encode()) for text in texts], dtype=np.int64)
            total = int(ends[-1])
            yield ends

    _write_array(archive, OFFSETS.format(name), np.dtype(np.int64), (spool.rows + 1,), offsets())
    utf8 = (np.frombuffer("".join(texts).encode(), np.uint8) for texts in spool.parts())
    _write_array(archive, UTF8.format(name), np.dtype(np.uint8), (total,), utf8)


def _write_array(
    archive: zipfile.ZipFile,
    name: str,
    dtype: np.dtype[Any],
    shape: tuple[int, ...],
    parts: Iterable[NDArray[Any]],
) -> None:
    entry = zipfile.ZipInfo(f"{name}.npy")
    text = name.startswith(TEXTS)
    entry.compress_type = zipfile.ZIP_DEFLATED if text else zipfile.ZIP_STORED
    entry._compresslevel = 1  # type: ignore[attr-defined]
    header = {
        "descr": np.lib.format.dtype_to_descr(dtype),
        "fortran_order": False,
        "shape": shape,
    }
    with archive.open(entry, "w", force_zip64=True) as member:
        np.lib.format.write_array_header_1_0(member, header)  # type: ignore[no-untyped-call, unused-ignore]
        for part in parts:
            member.write(part.astype(dtype, copy=False).tobytes())


def _columns(batch: CodeSet) -> dict[str, NDArray[Any] | list[str]]:
    """What has a row for each code."""
    columns: dict[str, NDArray[Any] | list[str] | None] = {
        "codes": batch.codes,
        "paths": list(batch.paths),
        "labels": _filled(batch.labels),
        "content_sha256": batch.content_sha256,
        "metadata": _filled(batch.metadata),
        "features": batch.features,
        "has_feature": batch.has_feature,
    }
    return {name: values for name, values in columns.items() if values is not None}


def _filled(texts: Sequence[str | None] | None) -> list[str] | None:
    return None if texts is None else [text or "" for text in texts]


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
