"""The writer against COPY of the same bytes into the same tables."""

from __future__ import annotations

import time
from statistics import median
from typing import Any

import numpy as np

from retrieval_db import encoders
from retrieval_db.client import Database
from retrieval_db.encoders import StoredEncoder
from retrieval_db.interchange import CodeSet
from retrieval_db.loading import BATCH, Writer, copy_format
from retrieval_db.loading.columns import image_columns
from retrieval_db.pipeline.background import ENOUGH
from retrieval_db.sql import queries

NAME = "benchmark-writer"
BITS = 128
DIMENSIONS = 512

SQL = queries("loading")

# Bytes of the COPYs of one transaction: of `images`, and of `image_features`.
Bytes = tuple[bytes, bytes | None]


def rows_of(count: int, features: bool, seed: int = 0) -> CodeSet:
    """Random codes with paths, labels, hashes and, if wanted, features."""
    random = np.random.default_rng(seed)
    return CodeSet(
        random.integers(0, 256, (count, BITS // 8), dtype=np.uint8),
        BITS,
        [f"/photos/holidays/{row // 1000:04d}/IMG_{row:08d}.jpg" for row in range(count)],
        labels=[f"label {row % 100}" for row in range(count)],
        content_sha256=random.integers(0, 256, (count, 32), dtype=np.uint8),
        features=(
            random.standard_normal((count, DIMENSIONS), dtype=np.float32) if features else None
        ),
        encoder=NAME,
        fingerprint=NAME,
    )


def fresh(db: Database) -> StoredEncoder:
    """The encoder without rows, in tables without dead ones."""
    if NAME in {stored.name for stored in db.encoders()}:
        db.remove_encoder(NAME)
        db.connection.execute("VACUUM images")
        db.connection.execute("VACUUM image_features")
    stored = encoders.register(db.connection, NAME, BITS, fingerprint=NAME, feature_dim=DIMENSIONS)
    db.connection.execute("CHECKPOINT")
    return stored


def ours(db: Database, items: CodeSet, size: int) -> float:
    """Our writer, `size` rows in a transaction."""
    writer = Writer(db.connection, fresh(db))
    started = time.perf_counter()
    for start in range(0, len(items), size):
        batch = items.take(slice(start, start + size))
        writer.write(batch)
    return time.perf_counter() - started


def bare(db: Database, items: CodeSet, size: int) -> float:
    """COPY of the same bytes, made beforehand, in the same transactions."""
    stored = fresh(db)
    with_features = items.features is not None
    ready: list[Bytes] = []
    for start in range(0, len(items), size):
        batch = items.take(slice(start, start + size))
        columns = image_columns(stored, batch)
        keys = None
        if batch.features is not None:
            # Ids that the sequence does not give, so that nothing has to be asked for.
            ids = (1 << 40) + start + np.arange(len(batch))
            keys = copy_format.integers(ids, 8)
            columns = [keys, *columns]
        feature_bytes = None
        if keys is not None and batch.features is not None:
            feature_bytes = _stream([keys, copy_format.half_vectors(batch.features)])
        ready.append((_stream(columns), feature_bytes))
    copy_images = SQL["copy_images_with_ids" if with_features else "copy_images"]
    started = time.perf_counter()
    for image_bytes, feature_bytes in ready:
        with db.connection.transaction(), db.connection.cursor() as cursor:
            with cursor.copy(copy_images) as copy:
                copy.write(image_bytes)
            if feature_bytes is not None:
                with cursor.copy(SQL["copy_features"]) as copy:
                    copy.write(feature_bytes)
    return time.perf_counter() - started


def _stream(columns: list[copy_format.Column]) -> bytes:
    return copy_format.SIGNATURE + copy_format.rows(columns) + copy_format.TRAILER


def study(db: Database, rows: int, repeat: int) -> dict[str, Any]:
    """Seconds of both, interleaved, for both sizes of transaction, with and without features."""
    figures: dict[str, Any] = {"rows": rows, "bits": BITS, "feature_dim": DIMENSIONS}
    for features in (False, True):
        items = rows_of(rows, features)
        for kind, size in (("index", ENOUGH), ("load", BATCH)):
            times: dict[str, list[float]] = {"ours": [], "bare": []}
            for _ in range(repeat):
                times["ours"].append(ours(db, items, size))
                times["bare"].append(bare(db, items, size))
            name = f"{kind}{'_with_features' if features else ''}"
            figures[name] = {
                "rows_in_a_transaction": size,
                "rows_per_second": round(rows / median(times["ours"])),
                "ratio_to_bare_copy": round(median(times["ours"]) / median(times["bare"]), 2),
                "ours_seconds": [round(value, 2) for value in times["ours"]],
                "bare_seconds": [round(value, 2) for value in times["bare"]],
            }
            print(name, figures[name], flush=True)
    db.remove_encoder(NAME)
    return figures
