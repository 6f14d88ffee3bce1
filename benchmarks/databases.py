"""Databases for studies: one of its own for each, filled with codes, and dropped afterwards."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.conninfo import make_conninfo

from retrieval_db import CodeSet, codes, connect, migration
from retrieval_db.client import Database
from retrieval_db.console.screen import note
from retrieval_db.database import Connection, open_connection

Packed = NDArray[np.uint8]

# The layout that serves an encoder: its own, else the one of its width.
BUCKET_BYTES = """
SELECT coalesce(sum(pg_relation_size(index.oid)), 0)
FROM pg_class AS index
WHERE relkind = 'i' AND relname ~ (
    SELECT '^images_bucket_' || layouts.id || '_'
    FROM layouts JOIN encoders ON encoders.bits = layouts.bits
    WHERE active AND name = %s AND (encoder_id = encoders.id OR encoder_id IS NULL)
    ORDER BY encoder_id LIMIT 1
)
"""
KEY_BYTES = """
SELECT coalesce(sum(pg_relation_size(indexrelid)), 0)
FROM pg_index WHERE indrelid = 'images'::regclass AND indisunique
"""
SAMPLE = 100


@contextmanager
def fresh(url: str | None, name: str, *, keep: bool = False) -> Iterator[Database]:
    """A migrated, empty database of that name on a server; dropped afterwards, unless kept.

    So no study reads through the rows that another one left in the table.
    """
    with connect(url, report=note) as home:
        server = home.target.url
        drop = sql.SQL("DROP DATABASE IF EXISTS {} WITH (FORCE)").format(sql.Identifier(name))
        home.connection.execute(drop)
        home.connection.execute(sql.SQL("CREATE DATABASE {}").format(sql.Identifier(name)))
    own = make_conninfo(server, dbname=name)
    try:
        migration.upgrade(own)
        with connect(own) as db:
            yield db
    finally:
        if not keep:
            with open_connection(server) as connection:
                connection.execute(drop)


def paths_of(rows: int) -> list[str]:
    """Paths of 20 characters."""
    return [f"images/{row:09d}.jpg" for row in range(rows)]


def load(
    db: Database,
    name: str,
    packed: Packed,
    bits: int,
    labels: Sequence[str] | None = None,
    metadata: Sequence[str] | None = None,
) -> dict[str, Any]:
    """Load codes under an encoder of their own, from nothing to searchable."""
    report = db.load(
        CodeSet(
            packed,
            bits,
            paths_of(len(packed)),
            labels,
            metadata=metadata,
            encoder=name,
            fingerprint=name,
        )
    )
    return {
        "load_index_vacuum_seconds": round(report.seconds, 1),
        **index_bytes(db, name, len(packed)),
    }


def index_bytes(db: Database, name: str, rows: int) -> dict[str, float]:
    """Bytes a row of an encoder's indexes, of which the keys serve every encoder."""
    return {
        "bucket_index_bytes_per_row": round(bucket_bytes(db, name) / rows, 1),
        "primary_and_unique_key_bytes_per_row": round(key_bytes(db) / rows, 1),
    }


def bucket_bytes(db: Database, name: str) -> int:
    """Size of the bucket indexes that serve an encoder."""
    row = db.connection.execute(BUCKET_BYTES, [name]).fetchone()
    return 0 if row is None else int(row[0])


def key_bytes(db: Database) -> int:
    """Size of the primary and unique keys of `images`."""
    row = db.connection.execute(KEY_BYTES).fetchone()
    return 0 if row is None else int(row[0])


def check_loaded(db: Database, name: str, packed: Packed, bits: int) -> None:
    """Stop unless the encoder's rows are these codes: their number, and a sample of them."""
    known = {encoder.name: encoder for encoder in db.encoders()}
    found = 0
    if name in known:
        row = db.connection.execute(
            "SELECT count(*) FROM images WHERE encoder_id = %s", [known[name].id]
        ).fetchone()
        found = int(row[0]) if row else 0
    if found == len(packed):
        chosen = np.random.default_rng(0).integers(0, found, SAMPLE)
        by_path = {
            row[0]: tuple(row[1:])
            for row in db.connection.execute(
                "SELECT path, code_1, code_2, code_3, code_4 FROM images"
                " WHERE encoder_id = %s AND path = ANY (%s)",
                [known[name].id, [f"images/{row:09d}.jpg" for row in chosen]],
            )
        }
        words = codes.to_words(packed[chosen], bits)
        if all(
            by_path.get(f"images/{row:09d}.jpg") == tuple(code)
            for row, code in zip(chosen, words.tolist(), strict=True)
        ):
            return
    sys.exit(
        f"The database does not hold these {len(packed)} codes as {name} (it has {found} rows). "
        f"Load them: python -m benchmarks.building --rows {len(packed)} --seed …"
    )


def check_pgvector(connection: Connection, table: str, packed: Packed) -> bool:
    """Whether a table of pgvector's holds these codes; the program ends if it holds others."""
    row = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
    if row is None or row[0] is None:
        return False
    chosen = np.random.default_rng(0).integers(0, len(packed), SAMPLE)
    name = sql.Identifier(table)
    total = connection.execute(sql.SQL("SELECT count(*), max(id) FROM {}").format(name)).fetchone()
    found = connection.execute(
        sql.SQL("SELECT id, code::text FROM {} WHERE id = ANY (%s)").format(name),
        [[int(row) + 1 for row in chosen]],
    ).fetchall()
    stored = {int(key) - 1: text for key, text in found}
    if total != (len(packed), len(packed)) or any(
        stored.get(int(row)) != "".join(map(str, np.unpackbits(packed[row]))) for row in chosen
    ):
        sys.exit(f"The table {table} holds other codes: drop it, or give its seed.")
    return True
