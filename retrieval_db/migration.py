"""Bringing the tables of a database to the revision that this program knows."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from . import errors
from .database import Connection, create_database_engine, translate

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection as SqlConnection

# The newest revision of each history; a test holds them against the migrations themselves.
CORE_HEAD = "0002"
FEATURES_HEAD = "f002"
CORE_TABLE = "retrieval_db_version"
FEATURES_TABLE = "retrieval_db_features_version"

# One migration at a time on one database: commands that start together all find work to do.
LOCK = 7_216_305_921


@dataclass(frozen=True)
class Revisions:
    """The revisions that a database is at; None where a history was never begun."""

    core: str | None
    features: str | None

    @property
    def current(self) -> bool:
        """Whether the core is exactly at the revision that this program knows."""
        return self.core == CORE_HEAD


def revisions(connection: Connection) -> Revisions:
    """Read the revisions that a database is at."""

    def revision(table: str) -> str | None:
        found = connection.execute("SELECT to_regclass(%s)", [table]).fetchone()
        if found is None or found[0] is None:
            return None
        row = connection.execute(f"SELECT version_num FROM {table}").fetchone()
        return None if row is None else str(row[0])

    return Revisions(revision(CORE_TABLE), revision(FEATURES_TABLE))


def require_current(connection: Connection) -> Revisions:
    """Return the revisions of a database that this program can work with.

    Raises:
        NotMigrated: it is behind, or was never migrated.
        SchemaTooNew: it is at a revision that this program does not know.
    """
    found = revisions(connection)
    if found.core is None:
        raise errors.NotMigrated()
    if not found.current:
        if _known(found.core, "versions"):
            raise errors.NotMigrated(
                f"The database is at revision {found.core}, this program needs {CORE_HEAD}. "
                "Run `retrieval-db migrate`."
            )
        raise errors.SchemaTooNew()
    return found


def upgrade(url: str, revision: str = "head") -> Revisions:
    """Migrate a database up, the fine stage too where pgvector can be had.

    Raises:
        ForeignTable: there is a table `images` or `encoders` that is not ours.
        SchemaTooNew: the database is newer than this program.
        PermissionDenied: the role may not create tables.
    """
    from alembic import command

    with _migrating(url) as connection:
        _refuse_strangers(connection)
        command.upgrade(_config("alembic", connection), revision)
        if revision == "head" and _vector_available(connection):
            command.upgrade(_config("features", connection), "head")
    return _current(url)


def downgrade(url: str, revision: str = "base") -> Revisions:
    """Migrate a database down; the fine stage goes first, since it leans on the core."""
    from alembic import command

    with _migrating(url) as connection:
        command.downgrade(_config("features", connection), "base")
        command.downgrade(_config("alembic", connection), revision)
    return _current(url)


def move(url: str, revision: str) -> Revisions:
    """Migrate up or down to `revision`, whichever way it lies."""
    from alembic.script import ScriptDirectory

    if revision in ("head", "heads"):
        return upgrade(url)
    order = [
        script.revision
        for script in ScriptDirectory.from_config(_config("alembic")).walk_revisions()
    ]
    current = _current(url).core
    if revision != "base" and revision not in order:
        raise errors.UsageError(
            f"There is no revision {revision!r}; there are: {', '.join(reversed(order))}, base."
        )
    if revision == "base" or (current in order and order.index(revision) > order.index(current)):
        return downgrade(url, revision)
    return upgrade(url, revision)


def offline_sql(revision: str = "head") -> str:
    """The SQL that migrates an empty database, for those who run it themselves with psql."""
    from alembic import command

    parts = []
    for section in ("alembic", "features") if revision == "head" else ("alembic",):
        buffer = io.StringIO()
        config = _config(section)
        config.output_buffer = buffer
        command.upgrade(config, revision, sql=True)
        parts.append(buffer.getvalue())
    marker = (
        "-- The fine stage: only where the extension vector (pgvector 0.7 or later) exists.\n\n"
    )
    return marker.join(parts)


def script_location() -> Path:
    """The folder of the migrations, in a checkout and in an installed wheel."""
    return Path(__file__).parent / "migrations"


def _config(section: str, connection: SqlConnection | None = None) -> Config:
    from alembic.config import Config

    config = Config(ini_section=section)
    folder = "features" if section == "features" else "versions"
    config.set_main_option("script_location", str(script_location()))
    config.set_main_option("version_locations", str(script_location() / folder))
    config.set_main_option("path_separator", "os")
    config.set_main_option("version_table", FEATURES_TABLE if section == "features" else CORE_TABLE)
    config.attributes["connection"] = connection
    return config


@contextmanager
def _migrating(url: str) -> Iterator[SqlConnection]:
    from sqlalchemy.exc import DBAPIError
    from sqlalchemy.pool import NullPool

    engine = create_database_engine(url, poolclass=NullPool)
    try:
        with engine.begin() as connection:
            connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({LOCK})")
            yield connection
    except DBAPIError as error:
        if isinstance(error.orig, psycopg.Error):
            raise translate(error.orig) from error
        raise
    finally:
        engine.dispose()


def _current(url: str) -> Revisions:
    from .database import open_connection

    with open_connection(url) as connection:
        return revisions(connection)


def _known(revision: str, folder: str) -> bool:
    return any((script_location() / folder).glob(f"{revision}_*.py"))


def _refuse_strangers(connection: SqlConnection) -> None:
    def scalar(sql: str) -> object:
        return connection.exec_driver_sql(sql).scalar()

    core = None
    if scalar(f"SELECT to_regclass('{CORE_TABLE}')") is not None:
        core = scalar(f"SELECT version_num FROM {CORE_TABLE}")
    if core is not None:
        if not _known(str(core), "versions"):
            raise errors.SchemaTooNew()
        return
    for table in ("images", "encoders"):
        if scalar(f"SELECT to_regclass('{table}')") is not None:
            raise errors.ForeignTable(
                f"The database has a table `{table}` that retrieval-db did not make. Nothing was "
                "changed. Give retrieval-db a schema of its own: CREATE SCHEMA retrieval, and "
                "?options=-csearch_path%3Dretrieval at the end of the URL."
            )


def _vector_available(connection: SqlConnection) -> bool:
    """Whether pgvector is there in a version that has halfvec, or can be created by this role."""
    row = connection.exec_driver_sql(
        """
        SELECT available.installed_version IS NOT NULL,
               string_to_array(coalesce(installed_version, default_version), '.')::int[] >= '{0,7}',
               (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                   OR (SELECT bool_and(version.trusted) FROM pg_available_extension_versions version
                       WHERE version.name = 'vector'
                         AND version.version = available.default_version)
                  AND has_database_privilege(current_database(), 'CREATE')
        FROM pg_available_extensions available WHERE name = 'vector'
        """
    ).fetchone()
    return row is not None and bool(row[1]) and (bool(row[0]) or bool(row[2]))
