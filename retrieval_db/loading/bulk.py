"""Codes into the table: binary COPY, whole batches, one row for each path and encoder."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import LiteralString, NoReturn

import numpy as np
import psycopg
from numpy.typing import NDArray

from .. import codes, encoders, layouts
from ..database import Connection, translated
from ..encoders import StoredEncoder
from ..errors import FormatError, MissingExtension, UsageError, WrongWidth
from ..interchange import CodeSet, Held, Source
from ..sql import queries
from . import copy_format, crew

SQL = queries("loading")

# Rows of one transaction: enough to make its cost vanish, few enough to lose little.
BATCH = 20_000

NO_FEATURES = (
    "There is no table image_features: it needs pgvector 0.7 or later. Install the extension "
    "and run `retrieval-db migrate`, or store the codes without features (--no-features)."
)

# The escape of a zero byte, which jsonb cannot hold; not a backslash that is escaped itself.
ZERO_IN_JSON = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# From this many new rows on, the statistics and the visibility map are worth a pass.
VACUUM_FROM = 1_000


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        encoder: name under which the codes are stored.
        inserted: new rows.
        updated: rows whose path was there already.
        seconds: wall time of the whole load.
        repeated: rows that were passed over, because their path came again soon after.
    """

    encoder: str
    inserted: int
    updated: int
    seconds: float
    repeated: int = 0


@dataclass(frozen=True)
class Survey:
    """What a source holds, read through once before anything is written.

    Attributes:
        rows: how many codes.
        head: no rows, but what is known of their encoder: name, bits, fingerprint, root…
        first: up to three of the codes, with what belongs to them.
        labels, hashes, metadata, features: how many codes have one.
        remarks: what was left out, and why.
    """

    rows: int
    head: CodeSet
    first: CodeSet
    labels: int
    hashes: int
    metadata: int
    features: int
    remarks: tuple[str, ...]


class Writer:
    """Writes batches of one encoder's codes, each in a transaction of its own."""

    def __init__(self, connection: Connection, encoder: StoredEncoder) -> None:
        self.connection = connection
        self.encoder = encoder
        self._began_empty = not _holds(connection, encoders.SQL["any_image"], [encoder.id])
        self._takes_features = takes_features(connection)

    def reserve(self, rows: int) -> NDArray[np.int64]:
        """Fresh ids for so many rows, int64 [rows], rising."""
        with self.connection.cursor() as cursor:
            return np.fromiter(
                (row[0] for row in cursor.execute(SQL["new_ids"], [rows])), dtype=np.int64
            )

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
        columns = self._columns(batch)
        while True:
            try:
                return self._write(batch, columns, ids)
            except psycopg.errors.DeadlockDetected:
                # Another client writes the same paths in another order, and was let through.
                continue

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

    def _columns(self, batch: CodeSet) -> list[copy_format.Column]:
        count = len(batch)
        words = codes.to_words(batch.codes, batch.bits)
        hashes = batch.content_sha256
        return [
            copy_format.constant(self.encoder.id.to_bytes(4, "big"), count),
            copy_format.constant(self.encoder.bits.to_bytes(2, "big"), count),
            *(copy_format.integers(words[:, word], 8) for word in range(codes.WORDS)),
            copy_format.fields([_text("path", path) for path in batch.paths]),
            copy_format.fields(
                [_text("label", label) for label in batch.labels]
                if batch.labels is not None
                else [None] * count
            ),
            copy_format.fields([None] * count)
            if hashes is None
            else copy_format.fixed(np.ascontiguousarray(hashes), 32).where(batch.known_hashes),
            copy_format.fields(
                [_json(text) for text in batch.metadata]
                if batch.metadata is not None
                else [None] * count
            ),
        ]

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
        if there.any():
            keys = copy_format.integers(ids[there], 8)
            vectors = copy_format.half_vectors(batch.features[there])
            _copy(cursor, "copy_features", [keys, vectors])


def survey(
    source: CodeSet | Source, *, progress: Callable[[int], None] = lambda rows: None
) -> Survey:
    """Read a source through, and see that every row of it can be stored.

    Raises:
        FormatError, CodeError: it cannot be read, or a row of it cannot be stored.
    """
    if isinstance(source, CodeSet):
        source = Held(source)
    counts = dict.fromkeys(("rows", "labels", "hashes", "metadata", "features"), 0)
    first: CodeSet | None = None
    for batch in source.batches(BATCH):
        for path in batch.paths:
            _text("path", path)
        for label in batch.labels or ():
            _text("label", label)
        for text in batch.metadata or ():
            _json(text)
        if first is None:
            first = batch.take(slice(0, 3))
        _check_alike(first, batch)
        if first.features is None and batch.features is not None:
            first = replace(first, features=np.zeros((len(first), batch.features.shape[1])))
        counts["rows"] += len(batch)
        counts["labels"] += sum(map(bool, batch.labels or ()))
        counts["hashes"] += int(batch.known_hashes.sum())
        counts["metadata"] += sum(map(bool, batch.metadata or ()))
        counts["features"] += int(batch.known_features.sum())
        progress(len(batch))
    assert first is not None
    return Survey(
        head=first.take(slice(0, 0)), first=first, remarks=tuple(source.remarks), **counts
    )


def load(
    connection: Connection,
    items: CodeSet | Source,
    *,
    encoder: str | None = None,
    features: bool = True,
    surveyed: Survey | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> LoadReport:
    """Bulk-load codes: register their encoder, write whole batches, then vacuum and analyze.

    A source is read twice, and never held: once to see that all of it can be stored, once to
    store it. An interrupted load leaves whole batches; the same call continues it. A large one is
    written over several connections at once, where the server has them to give.

    Args:
        connection: in autocommit mode.
        items: the codes, in memory or in a file.
        encoder: the encoder's name; overrides the one that `items` gives.
        features: whether to store features, if there are any.
        surveyed: what `survey` found, if it was asked before.
        progress: called after each batch with its number of rows.

    Raises:
        UsageError: nobody names the encoder, or its paths start from another folder.
        FormatError: a row that cannot be stored; nothing has been written then.
        EncoderConflict, WrongWidth: see `encoders.register`.
        MissingExtension: features without pgvector.
    """
    started = time.perf_counter()
    found = surveyed or survey(items)
    source = Held(items) if isinstance(items, CodeSet) else items
    head = found.head if features else without_features(found.head)
    name = encoder or head.encoder
    if not name:
        raise UsageError("The file does not name the encoder of its codes: give --encoder NAME.")
    with translated(connection):
        if head.features is not None and not takes_features(connection):
            raise MissingExtension(NO_FEATURES)
        stored = _register(connection, name, head)
        layouts.make_way(connection, stored, found.rows)
        kept = (batch if features else without_features(batch) for batch in source.batches(BATCH))
        helpers = crew.workers() - 1 if found.rows >= layouts.BULK else 0
        with crew.more_connections(connection, helpers) as others:
            writers = [Writer(each, stored) for each in (connection, *others)]
            inserted, updated = crew.write_all(writers, kept, progress)
        finish(connection, stored, inserted + updated)
    return LoadReport(
        stored.name,
        inserted,
        updated,
        time.perf_counter() - started,
        repeated=found.rows - inserted - updated,
    )


def without_features(items: CodeSet) -> CodeSet:
    """The same codes, their features left out."""
    return replace(items, features=None, has_feature=None)


def _check_alike(first: CodeSet, batch: CodeSet) -> None:
    """See that a later batch is of the same encoder."""
    if batch.bits != first.bits:
        raise WrongWidth(f"Codes of {first.bits} and of {batch.bits} bits in one file.")
    if first.features is not None and batch.features is not None:
        dimensions = first.features.shape[1], batch.features.shape[1]
        if dimensions[0] != dimensions[1]:
            raise WrongWidth("Features of {} and of {} dimensions in one file.".format(*dimensions))


def finish(connection: Connection, encoder: StoredEncoder, rows: int) -> None:
    """After `rows` rows were written: index, vacuum and analyze, where that is worth it."""
    if rows:
        layouts.settle(connection, encoder)
    if rows >= VACUUM_FROM:
        connection.execute(SQL["finish"])


def takes_features(connection: Connection) -> bool:
    """Whether the database has the table of features."""
    return _holds(connection, SQL["has_features_table"], [])


def _holds(connection: Connection, query: LiteralString, values: list[object]) -> bool:
    row = connection.execute(query, values).fetchone()
    return row is not None and bool(row[0])


def _register(connection: Connection, name: str, items: CodeSet) -> StoredEncoder:
    """Find or store the encoder of codes."""
    try:
        config = json.loads(items.config) if items.config else {}
    except ValueError as error:
        raise FormatError("The encoder_config is not JSON.") from error
    stored = encoders.register(
        connection,
        name,
        items.bits,
        fingerprint=items.fingerprint,
        feature_dim=None if items.features is None else items.features.shape[1],
        config=config,
        artifact=items.artifact,
        root=items.root,
    )
    return stored if items.root is None else encoders.rooted(connection, stored, items.root)


def _last_of_each_path(batch: CodeSet) -> NDArray[np.intp] | None:
    """The rows that count: the last of equal paths. None: all."""
    last = {path: row for row, path in enumerate(batch.paths)}
    if len(last) == len(batch):
        return None
    return np.array(sorted(last.values()), dtype=np.intp)


def _text(kind: str, value: str | None) -> bytes | None:
    if not value:
        if kind == "path":
            raise FormatError("An image without a path: every code needs one.")
        return None
    try:
        encoded = value.encode()
    except UnicodeEncodeError as error:
        raise FormatError(
            f"The {kind} {value!r} is not UTF-8 and cannot be stored. Rename it."
        ) from error
    if b"\0" in encoded:
        raise FormatError(f"The {kind} {value!r} contains a zero byte and cannot be stored.")
    return encoded


def _json(text: str | None) -> bytes | None:
    """Metadata in the binary form of `jsonb`: its version, then the text."""
    if not text:
        return None
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            # Half of a pair cannot be encoded.
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        raise FormatError(f"The metadata {text[:80]!r} are not JSON: {error}.") from error
    encoded = _text("metadata", text)
    if ZERO_IN_JSON.search(text):
        raise FormatError(f"The metadata {text[:80]!r} contain a zero byte and cannot be stored.")
    assert encoded is not None
    return b"\1" + encoded


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number there")


def _copy(
    cursor: psycopg.Cursor[tuple[object, ...]], query: str, columns: list[copy_format.Column]
) -> None:
    with cursor.copy(SQL[query]) as copy:
        copy.write(copy_format.SIGNATURE)
        copy.write(copy_format.rows(columns))
        copy.write(copy_format.TRAILER)
