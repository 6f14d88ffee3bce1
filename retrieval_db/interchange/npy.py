"""The arrays of an npz, read row by row."""

from __future__ import annotations

import math
import zipfile
from contextlib import ExitStack
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

# A header of numpy's says type and shape; longer ones are refused by numpy, too.
MAX_HEADER = 10_000

# Long texts are not padded to the longest: an array has the bytes of all of them, end to end, and
# another one where each begins, with the end of the last.
UTF8 = "{}_utf8"
OFFSETS = "{}_offsets"


class Array:
    """A member of the archive, read row by row."""

    def __init__(
        self, name: str, file: IO[bytes], shape: tuple[int, ...], dtype: np.dtype[Any]
    ) -> None:
        self.name = name
        self.shape = shape
        self.dtype = dtype
        self._file = file

    @property
    def count(self) -> int:
        return self.shape[0] if self.shape else 0

    def read(self, rows: int) -> NDArray[Any]:
        """The next rows."""
        return self._take((rows, *self.shape[1:]))

    def _take(self, shape: tuple[int, ...]) -> NDArray[Any]:
        size = math.prod(shape) * self.dtype.itemsize
        data = self._file.read(size)
        if len(data) != size:
            raise ValueError(f"{self.name} ends in the middle")
        return (
            np.frombuffer(data, self.dtype).reshape(shape) if size else np.empty(shape, self.dtype)
        )

    def whole(self, limit: int) -> NDArray[Any]:
        """All of an array that has no rows, if it has no more bytes than that."""
        size = math.prod(self.shape) * self.dtype.itemsize
        if size > limit:
            raise ValueError(f"{self.name} has {size:,} bytes, more than {limit:,}")
        array = self._take(self.shape)
        self.finish()
        return array

    def finish(self) -> None:
        """Read to the end, where the archive holds the checksum against what was read."""
        if self._file.read(1):
            raise ValueError(f"{self.name} has more data than its header says")


class Held(Array):
    """An array that can be had as a whole only."""

    def __init__(self, name: str, array: NDArray[Any]) -> None:
        self.name, self.shape, self.dtype = name, array.shape, array.dtype
        self._array, self._start = array, 0

    def read(self, rows: int) -> NDArray[Any]:
        self._start += rows
        return self._array[self._start - rows : self._start]

    def whole(self, limit: int) -> NDArray[Any]:
        return self._array

    def finish(self) -> None:
        pass


class Texts(Array):
    """Texts of any length, from their bytes and offsets."""

    def __init__(self, name: str, utf8: Array, offsets: Array) -> None:
        for array, dtype in ((utf8, np.uint8), (offsets, np.int64)):
            if len(array.shape) != 1 or array.dtype != dtype:
                raise ValueError(f"{array.name} must be {np.dtype(dtype)} [N]")
        if not offsets.count or offsets.read(1)[0]:
            raise ValueError(f"{offsets.name} must begin with 0")
        self.name, self.shape, self.dtype = name, (offsets.count - 1,), np.dtypes.StringDType()
        self._utf8, self._offsets, self._at = utf8, offsets, 0

    def read(self, rows: int) -> NDArray[Any]:
        sizes = np.diff(self._offsets.read(rows), prepend=self._at)
        if (sizes < 0).any():
            raise ValueError(f"{self._offsets.name} must not fall")
        texts = [self._utf8.read(size).tobytes().decode() for size in sizes.tolist()]
        self._at += int(sizes.sum())
        return np.array(texts, self.dtype)

    def finish(self) -> None:
        self._utf8.finish()
        self._offsets.finish()


def opened(archive: zipfile.ZipFile, name: str, members: ExitStack) -> Array | None:
    """An array of the archive, or the texts that two of its arrays make; None: neither is there.

    Raises:
        ValueError: of pickled objects, or otherwise not to be read.
    """
    found = _member(archive, name, members)
    if found is not None:
        return found
    utf8 = _member(archive, UTF8.format(name), members)
    offsets = _member(archive, OFFSETS.format(name), members)
    return None if utf8 is None or offsets is None else Texts(name, utf8, offsets)


def _member(archive: zipfile.ZipFile, name: str, members: ExitStack) -> Array | None:
    if not _is_array(archive, name):
        return None
    file = members.enter_context(archive.open(f"{name}.npy"))
    shape, fortran, dtype = _header(name, file)
    if not fortran or len(shape) < 2:
        return Array(name, file, shape, dtype)
    # Column by column: only as a whole can its rows be had.
    with archive.open(f"{name}.npy") as again:
        array = np.lib.format.read_array(again, allow_pickle=False)
    return Held(name, np.ascontiguousarray(array))


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
