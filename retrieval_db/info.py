"""What is in a database: versions, encoders, counts, sizes and indexes."""

from __future__ import annotations

from dataclasses import dataclass

from . import encoders, migration
from .database import Connection, Target, translated
from .encoders import StoredEncoder
from .sql import queries

SQL = queries("info")


@dataclass(frozen=True)
class Relation:
    """A table or an index of ours; sizes in bytes."""

    name: str
    is_index: bool
    bytes: int
    valid: bool


@dataclass(frozen=True)
class Info:
    """A database as `retrieval-db info` shows it.

    Attributes:
        target: where it is and what named it.
        database, schema: where the tables are.
        postgresql: the server's version.
        pgvector: its version, or None where it is not installed.
        revisions: of the migrations.
        encoders: each with how many images it has codes of.
        relations: tables (with their indexes in the size), then indexes.
    """

    target: str
    database: str
    schema: str
    postgresql: str
    pgvector: str | None
    revisions: migration.Revisions
    encoders: tuple[tuple[StoredEncoder, int], ...]
    relations: tuple[Relation, ...]


def describe(connection: Connection, target: Target) -> Info:
    """Look at a migrated database."""
    with translated(connection):
        server = connection.execute(SQL["server"]).fetchone()
        assert server is not None
        counts = encoders.image_counts(connection)
        return Info(
            target=str(target),
            database=server[0],
            postgresql=server[1],
            schema=server[2],
            pgvector=server[3],
            revisions=migration.revisions(connection),
            encoders=tuple(
                # One that was registered in between holds nothing that was counted.
                (e, counts.get(e.name, 0))
                for e in encoders.stored_encoders(connection)
            ),
            relations=tuple(
                Relation(name, is_index, own if is_index else total, valid)
                for name, is_index, total, own, valid in connection.execute(SQL["relations"])
            ),
        )
