"""Codes out of the tables and into a file, with all that belongs to them, as a stream."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from . import codes, encoders, search
from .database import Connection, translated
from .encoders import StoredEncoder
from .errors import UsageError
from .interchange import CodeSet, csv_writer, npz_writer, parquet_writer, writing
from .loading import BATCH
from .search import Query
from .sql import queries

SQL = queries("exporting")


class CodeWriter(Protocol):
    """Takes batches of codes, all with the same columns."""

    def write(self, batch: CodeSet) -> None:
        """Add rows."""


WRITERS: dict[str, Callable[[Path], AbstractContextManager[CodeWriter]]] = {
    "npz": npz_writer,
    "parquet": parquet_writer,
    "csv": csv_writer,
}
SUFFIXES = {".npz": "npz", ".parquet": "parquet", ".pq": "parquet", ".csv": "csv"}


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote.

    Attributes:
        encoder: whose codes.
        path: the file.
        format: npz, parquet or csv.
        rows: how many codes.
        exact: whether every search that restricted it was exact; None without a search.
        seconds: wall time.
    """

    encoder: str
    path: str
    format: str
    rows: int
    exact: bool | None
    seconds: float


@dataclass(frozen=True)
class Restriction:
    """Which of an encoder's images are exported; by default all.

    Attributes:
        labels: only images with one of these labels.
        metadata: only images whose metadata contain this (`jsonb @>`).
        queries: only what searches for these codes find, nearest first; each image once.
        k, radius: of each search, as in `search.search`.
    """

    labels: Sequence[str] | None = None
    metadata: Mapping[str, Any] | None = None
    queries: Sequence[Query] = ()
    k: int | None = 10
    radius: int | None = None


def export(
    connection: Connection,
    encoder: StoredEncoder,
    path: Path,
    *,
    format: str | None = None,
    only: Restriction | None = None,
    features: bool = True,
    progress: Callable[[int], None] = lambda rows: None,
) -> ExportReport:
    """Write an encoder's codes to a file; it is there whole or not at all.

    All is read in one read-only snapshot through a server-side cursor, so neither side holds
    more than a batch of rows. `load` reads the file again: paths, labels, metadata, content
    hashes, codes and features come back as they were.

    Args:
        connection: in autocommit mode.
        path: where to; its suffix names the format where `format` does not.
        only: which images.
        features: whether to write features, if there are any.
        progress: called after each batch with its number of rows.

    Raises:
        UsageError: no format is named, or impossible values for a search.
        MissingExtra: Parquet without pyarrow.
        FormatError: the file cannot be written.
    """
    started = time.perf_counter()
    kind = format_of(path, format)
    rows = 0
    with (
        writing(path),
        translated(connection),
        WRITERS[kind](path) as writer,
        _snapshot(connection),
    ):
        ids, exact = _found(connection, encoder, only or Restriction())
        for batch in _batches(connection, encoder, only or Restriction(), ids, features):
            writer.write(batch)
            rows += len(batch)
            progress(len(batch))
    seconds = time.perf_counter() - started
    return ExportReport(encoder.name, str(path), kind, rows, exact, seconds)


def format_of(path: Path, format: str | None = None) -> str:
    """The format that is named, or that a file's suffix names.

    Raises:
        UsageError: none is.
    """
    kind = format or SUFFIXES.get(path.suffix.lower())
    if kind not in WRITERS:
        raise UsageError(
            f"{path.name!r} does not say its format: end it with .npz, .parquet or .csv, or give "
            f"--format {'|'.join(WRITERS)}."
        )
    return kind


@contextmanager
def _snapshot(connection: Connection) -> Iterator[None]:
    with connection.transaction():
        connection.execute(SQL["snapshot"])
        yield


def _found(
    connection: Connection, encoder: StoredEncoder, only: Restriction
) -> tuple[list[int] | None, bool | None]:
    """The ids that the searches find, and whether all were exact; None without a search."""
    if not only.queries:
        return None, None
    ids: dict[int, None] = {}
    exact = True
    for query in only.queries:
        answer = search.search(
            connection,
            encoder,
            query,
            k=only.k,
            radius=only.radius,
            labels=only.labels,
            metadata=only.metadata,
            stage="coarse",
        )
        ids |= dict.fromkeys(hit.image_id for hit in answer.hits)
        exact = exact and answer.exact
    return list(ids), exact


def _batches(
    connection: Connection,
    encoder: StoredEncoder,
    only: Restriction,
    ids: list[int] | None,
    features: bool,
) -> Iterator[CodeSet]:
    """The rows as codes, all batches with the same columns; without any, one empty batch."""
    values = {
        "encoder": encoder.id,
        "labels": list(only.labels) if only.labels else None,
        "metadata": Jsonb(dict(only.metadata)) if only.metadata else None,
        "ids": ids,
    }
    counts = connection.execute(SQL["counts"], values).fetchone()
    assert counts is not None
    artifact = encoders.artifact(connection, encoder)
    dimensions = encoder.feature_dim if features and encoders.takes_features(connection) else None
    with connection.cursor("export", binary=True) as cursor:
        cursor.execute(SQL["rows"] if ids is None else SQL["found_rows"], values)
        written = 0
        while (rows := cursor.fetchmany(BATCH)) or not written:
            columns = list(zip(*rows, strict=True)) or [()] * 9
            yield CodeSet(
                codes.from_words(
                    np.array(columns[5:9], dtype=np.int64).reshape(4, -1).T, encoder.bits
                ),
                encoder.bits,
                columns[1],
                labels=columns[2] if counts[1] else None,
                content_sha256=_digests(columns[3]) if counts[2] else None,
                **_features(connection, columns[0], dimensions),
                encoder=encoder.name,
                fingerprint=encoder.fingerprint or None,
                config=json.dumps(dict(encoder.config)) if encoder.config else None,
                artifact=artifact,
                root=encoder.root,
                metadata=columns[4] if counts[3] else None,
            )
            written += max(1, len(rows))


def _digests(values: Sequence[bytes | None]) -> NDArray[np.uint8]:
    data = b"".join(bytes(32) if value is None else value for value in values)
    return np.frombuffer(data, dtype=np.uint8).reshape(-1, 32)


def _features(
    connection: Connection, ids: Sequence[int], dimensions: int | None
) -> dict[str, NDArray[Any]]:
    """The features of some images as `CodeSet` takes them, float16 [N, D]."""
    if dimensions is None:
        return {}
    features = np.zeros((len(ids), dimensions), dtype=np.float16)
    there = np.zeros(len(ids), dtype=np.bool_)
    place = {image_id: row for row, image_id in enumerate(ids)}
    with connection.cursor(binary=True) as cursor:
        for image_id, vector in cursor.execute(SQL["features"], [list(ids)]):
            # pgvector's binary form: int16 dimensions, int16 zero, then the half-floats.
            features[place[image_id]] = np.frombuffer(vector, dtype=">f2", offset=4)
            there[place[image_id]] = True
    return {"features": features, "has_feature": there}
