"""The codes of an encoder as arrays, read from the table, and brought up to date by parts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql

from ..codes import WORDS
from ..database import Connection
from ..encoders import StoredEncoder
from ..sql import queries
from .flat import PackedWords, Rows

SQL = queries("memory")

# Rows fetched at a time.
PAGE = 100_000


@dataclass(frozen=True)
class ResidentCodes:
    """N codes, in the order of their ids.

    Attributes:
        ids: int64 [N], ascending.
        words: uint64 [W, N], the codes; as many words of the table as fit lie in one.
        labels: unsigned [N], 0 for none, else 1 + the label's place in `names`.
        names: the labels.
    """

    ids: NDArray[np.int64]
    words: PackedWords
    labels: NDArray[np.unsignedinteger[Any]]
    names: tuple[str, ...]

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return self.ids.nbytes + self.words.nbytes + self.labels.nbytes

    def bearing(self, labels: Sequence[str]) -> Rows:
        """The rows with one of these labels, ascending."""
        wanted = np.zeros(len(self.names) + 1, dtype=np.bool_)
        for number, name in enumerate(self.names, start=1):
            wanted[number] = name in labels
        return np.flatnonzero(wanted[self.labels])

    def rows_of(self, ids: NDArray[np.int64]) -> Rows:
        """The rows of those ids that are here, ascending."""
        ids = np.sort(ids)
        rows = np.searchsorted(self.ids, ids)
        inside = rows < len(self.ids)
        rows, ids = rows[inside], ids[inside]
        found: Rows = rows[self.ids[rows] == ids]
        return found


def empty(bits: int) -> ResidentCodes:
    """No codes of this length."""
    words = np.empty((WORDS // _together(bits), 0), dtype=np.uint64)
    return ResidentCodes(np.empty(0, dtype=np.int64), words, np.empty(0, dtype=np.uint8), ())


def read(connection: Connection, encoder: StoredEncoder) -> ResidentCodes:
    """Read all codes of an encoder, a page at a time."""
    values = {"encoder_id": encoder.id}
    names = tuple(row[0] for row in connection.execute(SQL["labels"], values))
    return _joined(encoder, list(_pages(connection, encoder, names)), names)


def reread(
    connection: Connection, encoder: StoredEncoder, old: ResidentCodes, ids: NDArray[np.int64]
) -> ResidentCodes:
    """The codes with those of some ids read again: changed, new or gone."""
    given = {"encoder_id": encoder.id, "ids": ids.tolist()}
    known = set(old.names)
    found = (row[0] for row in connection.execute(SQL["labels_of"], given))
    names = (*old.names, *sorted(label for label in found if label not in known))
    page = _page(connection, encoder, names, "id = ANY (%(ids)s)", given)
    kept = np.ones(len(old.ids), dtype=np.bool_)
    kept[old.rows_of(ids)] = False
    rest = _Page(old.ids[kept], old.labels[kept], old.words[:, kept])
    return _joined(encoder, [rest, page], names)


@dataclass
class _Page:
    ids: NDArray[np.int64]
    labels: NDArray[Any]
    words: NDArray[Any]


def pack(words: NDArray[np.int64], bits: int) -> PackedWords:
    """Codes as words int64 [N, 4] in the packing of `ResidentCodes.words`: uint64 [N, W]."""
    together = _together(bits)
    unsigned = words.view(np.uint64).reshape(len(words), WORDS // together, together)
    packed = unsigned[:, :, 0].copy()
    for position in range(1, together):
        packed = packed << np.uint64(bits // WORDS) | unsigned[:, :, position]
    return packed


def _together(bits: int) -> int:
    """How many words of the table fit into 64 bits."""
    return 4 if bits <= 64 else 2 if bits <= 128 else 1


def _expressions(bits: int) -> list[sql.Composable]:
    """SQL of the packed words; the same packing as `pack`."""
    together, width = _together(bits), sql.Literal(bits // WORDS)
    packed = []
    for first in range(1, WORDS + 1, together):
        expression: sql.Composable = sql.Identifier(f"code_{first}")
        for number in range(first + 1, first + together):
            expression = sql.SQL("({} << {} | {})").format(
                expression, width, sql.Identifier(f"code_{number}")
            )
        packed.append(expression)
    return packed


def _pages(connection: Connection, encoder: StoredEncoder, names: Sequence[str]) -> Iterator[_Page]:
    """All rows, by ascending ids. Their statements need not share a snapshot: see `memory`."""
    given = {"encoder_id": encoder.id, "after": -(1 << 63), "size": PAGE}
    while True:
        page = _page(connection, encoder, names, "id > %(after)s ORDER BY id LIMIT %(size)s", given)
        yield page
        if len(page.ids) < PAGE:
            return
        given["after"] = int(page.ids.max())


def _page(
    connection: Connection,
    encoder: StoredEncoder,
    names: Sequence[str],
    which: Any,
    given: dict[str, Any],
) -> _Page:
    packed = _expressions(encoder.bits)
    words = [sql.Identifier(f"word_{number}") for number in range(len(packed))]
    statement = sql.SQL(SQL["page"]).format(
        words=sql.SQL(", ").join(
            sql.SQL("{} AS {}").format(*pair) for pair in zip(packed, words, strict=True)
        ),
        sent=sql.SQL(", ").join(sql.SQL("array_send(array_agg({}))").format(w) for w in words),
        which=sql.SQL(which),
    )
    values = given | {"labels": list(names)}
    row = connection.execute(statement, values, binary=True).fetchone()
    assert row is not None
    ids, labels, *columns = row
    return _Page(
        received(ids),
        received(labels, 4).astype(_label_type(names)),
        np.array([received(column) for column in columns]).view(np.uint64),
    )


def received(sent: bytes | None, size: int = 8) -> NDArray[Any]:
    """An array without nulls from PostgreSQL's binary form: integers of `size` bytes.

    The form (array_send): 20 bytes of dimensions, then for each element its length and value.
    """
    if sent is None:
        return np.empty(0, dtype=f"i{size}")
    elements = np.frombuffer(sent, dtype=[("length", ">i4"), ("value", f">i{size}")], offset=20)
    return elements["value"].astype(f"i{size}")


def _label_type(names: Sequence[str]) -> np.dtype[Any]:
    return np.min_scalar_type(len(names))


def _joined(encoder: StoredEncoder, pages: list[_Page], names: tuple[str, ...]) -> ResidentCodes:
    """The pages as one, in the order of ids; the words of each go once they are copied."""
    ids = np.concatenate([page.ids for page in pages])
    labels = np.concatenate([page.labels for page in pages]).astype(_label_type(names), copy=False)
    words = np.empty((WORDS // _together(encoder.bits), len(ids)), dtype=np.uint64)
    end = 0
    for page in pages:
        words[:, end : end + len(page.ids)] = page.words
        end += len(page.ids)
        page.words = words[:, :0]
    if (ids[1:] < ids[:-1]).any():
        order = np.argsort(ids, kind="stable")
        ids, labels, words = ids[order], labels[order], words[:, order]
    return ResidentCodes(ids, words, labels, names)
