"""PostgreSQL's binary COPY format, built column-wise with NumPy.

A row is an int16 count of fields, then for each field an int32 length (-1 for NULL) and its
bytes, big-endian (PostgreSQL documentation, COPY, "Binary Format"). Writing rows one by one
from Python costs several microseconds a row; columns cost a fraction of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SIGNATURE = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"
NULL = -1

# Bytes that rows may be padded with while they are put together.
ROOM = 1 << 24


@dataclass(frozen=True)
class Column:
    """A column of N fields: their bytes end to end, and the length of each.

    Attributes:
        data: uint8 [total], the non-null fields one after the other.
        lengths: int32 [N], bytes of each field; -1 for NULL.
    """

    data: NDArray[np.uint8]
    lengths: NDArray[np.int32]

    def where(self, there: NDArray[np.bool_]) -> Column:
        """The same fields, NULL where `there`, bool [N], is False."""
        if there.all():
            return self
        kept = np.repeat(there, np.maximum(self.lengths, 0))
        return Column(self.data[kept], np.where(there, self.lengths, NULL).astype(np.int32))

    def rows(self, start: int, stop: int) -> Column:
        """Some rows of the column."""
        ends = np.cumsum(np.maximum(self.lengths, 0), dtype=np.int64)
        first = int(ends[start - 1]) if start else 0
        return Column(self.data[first : int(ends[stop - 1])], self.lengths[start:stop])


def integers(values: NDArray[np.int64], size: int) -> Column:
    """A column of `smallint`, `integer` or `bigint`: `size` is 2, 4 or 8 bytes."""
    return fixed(np.ascontiguousarray(values.astype(f">i{size}")).view(np.uint8), size)


def fixed(data: NDArray[np.uint8], size: int) -> Column:
    """A column whose fields all have `size` bytes: uint8 [N, size] or flat."""
    flat = data.reshape(-1)
    return Column(flat, np.full(len(flat) // size, size, dtype=np.int32))


def constant(field: bytes, rows: int) -> Column:
    """A column that says the same in every row."""
    return fixed(np.tile(np.frombuffer(field, dtype=np.uint8), rows), len(field))


def fields(values: Sequence[bytes | None]) -> Column:
    """A column of fields given as bytes; None is NULL."""
    lengths = np.array([NULL if v is None else len(v) for v in values], dtype=np.int32)
    data = b"".join(v for v in values if v is not None)
    return Column(np.frombuffer(data, dtype=np.uint8), lengths)


def half_vectors(features: NDArray[np.floating]) -> Column:
    """A column of pgvector's `halfvec`: int16 dimensions, int16 zero, then the half-floats.

    Args:
        features: [N, D] floats.
    """
    count, dimensions = features.shape
    cells = np.empty((count, 2 + dimensions), dtype=">i2")
    cells[:, 0] = dimensions
    cells[:, 1] = 0
    cells[:, 2:].view(">f2")[...] = features
    return fixed(cells.view(np.uint8), 2 * cells.shape[1])


def rows(columns: Sequence[Column]) -> bytes:
    """Interleave columns of equal length to the bytes of rows, without signature and trailer."""
    count = len(columns[0].lengths)
    if not count:
        return b""
    widths = [max(int(column.lengths.max()), 0) for column in columns]
    padded = count * (2 + sum(4 + width for width in widths))
    if count > 1 and padded > ROOM + 4 * sum(column.data.size for column in columns):
        # A few long fields would widen every row.
        half = count // 2
        parts = [[column.rows(*part) for column in columns] for part in ((0, half), (half, count))]
        return rows(parts[0]) + rows(parts[1])
    cells = np.empty((count, padded // count), dtype=np.uint8)
    there: NDArray[np.bool_] | None = None
    cells[:, :2] = np.frombuffer(len(columns).to_bytes(2, "big"), dtype=np.uint8)
    at = 2
    for column, width in zip(columns, widths, strict=True):
        cells[:, at : at + 4] = column.lengths.astype(">i4")[:, None].view(np.uint8)
        field = slice(at + 4, at + 4 + width)
        at = field.stop
        if column.lengths.min() == width:
            cells[:, field] = column.data.reshape(count, width)
        elif width:
            if there is None:
                there = np.ones(cells.shape, dtype=np.bool_)
            there[:, field] = np.arange(width) < column.lengths[:, None]
            cells[:, field][there[:, field]] = column.data
    return (cells if there is None else cells[there]).tobytes()
