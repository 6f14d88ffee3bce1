"""Batches of codes into the tables, each in a transaction: one row for each path and encoder."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import LiteralString

import numpy as np
import psycopg
from numpy.typing import NDArray

from .. import encoders
from ..database import Connection, insistent
from ..encoders import StoredEncoder
from ..errors import MissingExtension, WrongWidth
from ..interchange import CodeSet
from ..sql import queries
from . import copy_format
from .columns import image_columns

SQL = queries("loading")

# Few enough to stay in the processor's cache, and to be sent while the server stores the last ones.
FEATURES_AT_ONCE = 256

NO_FEATURES = (
    "There is no table image_features: it needs pgvector 0.7 or later. Install the extension "
    "and run `retrieval-db migrate` with the same --database, or store the codes without "
    "features (--no-features)."
)


class Writer:
    """Writes batches of one encoder's codes, each in a transaction of its own."""

    def __init__(self, connection: Connection, encoder: StoredEncoder) -> None:
        self.connection = connection
        self.encoder = encoder
        self._began_empty = not _holds(connection, encoders.SQL["any_image"], [encoder.id])
        self._takes_features = encoders.takes_features(connection)

    def reserve(self, rows: int) -> NDArray[np.int64]:
        """Fresh ids for so many rows, int64 [rows], rising."""
        found = self.connection.execute(SQL["new_ids"], [rows], binary=True).fetchone()
        assert found is not None
        return np.array(found[0], dtype=np.int64)

    def write(self, batch: CodeSet, ids: NDArray[np.int64] | None = None) -> tuple[int, int]:
        """Insert or update the rows of a batch, all or none of them.

        Args:
            batch: of this encoder's codes; the last of equal paths counts.
            ids: for its rows, int64 [len(batch)]; by default what comes next.

        Returns:
            How many rows were inserted, and how many updated.

        Raises:
            WrongWidth: the codes or features have another width than the encoder's.
            FormatError: a path or label that PostgreSQL cannot store.
            MissingExtension: features without pgvector.
        """
        self._check(batch)
        kept = _last_of_each_path(batch)
        if kept is not None:
            batch = batch.take(kept)
            ids = None if ids is None else ids[kept]
        if not len(batch):
            return 0, 0
        columns = image_columns(self.encoder, batch)
        return insistent(lambda: self._write(batch, columns, ids))

    def _check(self, batch: CodeSet) -> None:
        if batch.bits != self.encoder.bits:
            raise WrongWidth(
                f"Codes of {batch.bits} bits for the encoder {self.encoder.name!r}, "
                f"whose codes have {self.encoder.bits}."
            )
        if batch.features is None:
            return
        if not self._takes_features:
            raise MissingExtension(NO_FEATURES)
        dimensions = batch.features.shape[1]
        if self.encoder.feature_dim is None:
            self.connection.execute(encoders.SQL["set_feature_dim"], [dimensions, self.encoder.id])
            self.encoder = encoders.find(self.connection, self.encoder.name)
        if self.encoder.feature_dim != dimensions:
            raise WrongWidth(
                f"Features of {dimensions} dimensions for the encoder {self.encoder.name!r}, "
                f"whose features have {self.encoder.feature_dim}."
            )

    def _write(
        self, batch: CodeSet, columns: list[copy_format.Column], ids: NDArray[np.int64] | None
    ) -> tuple[int, int]:
        known = set() if self._began_empty else self._existing(batch)
        if not known:
            try:
                return self._insert(batch, columns, ids), 0
            except psycopg.errors.UniqueViolation:
                # An earlier batch, or another client, has brought one of these paths.
                self._began_empty = False
                known = self._existing(batch)
        return self._upsert(batch, columns, len(known))

    def _existing(self, batch: CodeSet) -> set[str]:
        rows = self.connection.execute(
            SQL["existing_paths"], [self.encoder.id, list(batch.paths)]
        ).fetchall()
        return {str(row[0]) for row in rows}

    def _insert(
        self,
        batch: CodeSet,
        columns: list[copy_format.Column],
        ids: NDArray[np.int64] | None,
    ) -> int:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            if ids is None and batch.features is None:
                _copy(cursor, "copy_images", columns)
                return len(batch)
            ids = self.reserve(len(batch)) if ids is None else ids
            _copy(cursor, "copy_images_with_ids", [copy_format.integers(ids, 8), *columns])
            if batch.features is not None:
                self._copy_features(cursor, ids, batch)
        return len(batch)

    def _upsert(
        self, batch: CodeSet, columns: list[copy_format.Column], known: int
    ) -> tuple[int, int]:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.execute(SQL["create_incoming"])
            _copy(cursor, "copy_incoming", columns)
            if self._takes_features and not batch.known_features.all():
                cursor.execute(SQL["delete_stale_features"])
            cursor.execute(SQL["upsert"])
            if batch.features is not None:
                by_path: dict[str, int] = dict(cursor.execute(SQL["ids_of_incoming"]).fetchall())
                ids = np.array([by_path[path] for path in batch.paths], dtype=np.int64)
                cursor.execute(SQL["delete_features"], [ids[batch.known_features].tolist()])
                self._copy_features(cursor, ids, batch)
        return len(batch) - known, known

    def _copy_features(
        self,
        cursor: psycopg.Cursor[tuple[object, ...]],
        ids: NDArray[np.int64],
        batch: CodeSet,
    ) -> None:
        assert batch.features is not None
        there = batch.known_features
        if not there.any():
            return
        with _copying(cursor, "copy_features") as copy:
            for start in range(0, len(batch), FEATURES_AT_ONCE):
                some = slice(start, start + FEATURES_AT_ONCE)
                known = there[some]
                keys = copy_format.integers(ids[some][known], 8)
                vectors = copy_format.half_vectors(batch.features[some][known])
                copy.write(copy_format.rows([keys, vectors]))


def _holds(connection: Connection, query: LiteralString, values: list[object]) -> bool:
    row = connection.execute(query, values).fetchone()
    return row is not None and bool(row[0])


def _last_of_each_path(batch: CodeSet) -> NDArray[np.intp] | None:
    """The rows that count: the last of equal paths. None: all."""
    last = {path: row for row, path in enumerate(batch.paths)}
    if len(last) == len(batch):
        return None
    return np.array(sorted(last.values()), dtype=np.intp)


@contextmanager
def _copying(cursor: psycopg.Cursor[tuple[object, ...]], query: str) -> Iterator[psycopg.Copy]:
    with cursor.copy(SQL[query]) as copy:
        copy.write(copy_format.SIGNATURE)
        yield copy
        copy.write(copy_format.TRAILER)


def _copy(
    cursor: psycopg.Cursor[tuple[object, ...]], query: str, columns: list[copy_format.Column]
) -> None:
    with _copying(cursor, query) as copy:
        copy.write(copy_format.rows(columns))
