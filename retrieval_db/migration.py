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
from .database import (
    Connection,
    create_database_engine,
    open_connection,
    translate,
    translated,
)

if TYPE_CHECKING:
    from alembic.config import Config
    from sqlalchemy import Connection as SqlConnection

# The newest revision of each history; a test holds them against the migrations themselves.
CORE_HEAD = "0013"
FEATURES_HEAD = "f004"
# The table of features without the functions: it leans on nothing of the core but `images`.
FEATURES_ALONE = "f001"
CORE_TABLE = "retrieval_db_version"
FEATURES_TABLE = "retrieval_db_features_version"

# One migration at a time on one database: commands that start together all find work to do.
LOCK = 7_216_305_921


# An own schema; `public` after it, for the extension vector may live there.
OWN_SCHEMA = (
    "CREATE SCHEMA retrieval, and ?options=-csearch_path%3Dretrieval,public at the end of the URL."
)
CURES: dict[type[psycopg.Error], str] = {
    psycopg.errors.InsufficientPrivilege: (
        " Migrate as a role that may create tables there (GRANT CREATE ON SCHEMA … TO …), or in a "
        f"schema of its own: {OWN_SCHEMA}"
    ),
    psycopg.errors.DependentObjectsStillExist: (
        ". Drop what leans on the tables first; `retrieval-db legacy-view --drop` drops its view."
    ),
    psycopg.errors.InvalidSchemaName: f" Give retrieval-db a schema: {OWN_SCHEMA}",
}


@dataclass(frozen=True)
class Revisions:
    """The revisions that a database is at; None where a history was never begun."""

    core: str | None
    features: str | None

    def __str__(self) -> str:
        return " and ".join(filter(None, (self.core, self.features))) or "base"

    @property
    def current(self) -> bool:
        """Whether all that is there is exactly at the revision that this program knows."""
        return self.core == CORE_HEAD and self.features in (None, FEATURES_HEAD)


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
    _refuse_newer(found)
    if not found.current:
        raise errors.NotMigrated(
            f"The database is at revision {found}, this program needs "
            f"{Revisions(CORE_HEAD, found.features and FEATURES_HEAD)}. "
            "Run `retrieval-db migrate` with the same --database."
        )
    return found


def upgrade(url: str, revision: str = "head") -> Revisions:
    """Migrate a database up, the fine stage too where pgvector can be had.

    Raises:
        ForeignTable: there is a table `images` or `encoders` that is not ours.
        SchemaTooNew: the database is newer than this program.
        PermissionDenied: the role may not create tables.
        DatabaseError: there is no schema to create them in.
    """
    from alembic import command

    _refuse_newer(_current(url))
    with _migrating(url) as connection:
        _refuse_strangers(connection)
        command.upgrade(_config("alembic", connection), revision)
        if revision == "head" and _vector_available(connection):
            command.upgrade(_config("features", connection), "head")
    return _current(url)


def downgrade(url: str, revision: str = "base") -> Revisions:
    """Migrate a database down; the fine stage goes first, since it leans on the core.

    Stored features stay, except on the way to `base`.

    Raises:
        SchemaTooNew: only a newer program knows the way down.
    """
    from alembic import command

    found = _current(url)
    _refuse_newer(found)
    with _migrating(url) as connection:
        if found.features is not None:
            fine = "base" if revision == "base" else FEATURES_ALONE
            command.downgrade(_config("features", connection), fine)
        command.downgrade(_config("alembic", connection), revision)
    return _current(url)


def move(url: str, revision: str) -> Revisions:
    """Migrate up or down to `revision`, whichever way it lies.

    Raises:
        UsageError: there is no such revision.
        SchemaTooNew: the database is newer than this program.
    """
    if revision == "head":
        return upgrade(url)
    order = _check_known(revision)
    found = _current(url)
    _refuse_newer(found)
    if order.index(revision) < order.index(found.core or "base"):
        return downgrade(url, revision)
    return found if revision == "base" else upgrade(url, revision)


def holdings(url: str) -> tuple[int, int]:
    """How many encoders and images would go with the tables; at any revision."""
    with open_connection(url) as connection, translated(connection):
        if revisions(connection).core is None:
            return 0, 0
        counts = "SELECT (SELECT count(*) FROM encoders), (SELECT count(*) FROM images)"
        row = connection.execute(counts).fetchone()
    assert row is not None
    return int(row[0]), int(row[1])


def offline_sql(revision: str = "head") -> str:
    """The SQL that migrates an empty database, for those who run it themselves with psql.

    Raises:
        UsageError: there is no such revision.
    """
    from alembic import command

    if revision != "head":
        _check_known(revision)
    if revision == "base":
        raise errors.UsageError("--sql migrates an empty database up, so there is no way to base.")
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


def _revisions() -> list[str]:
    """The revisions of the core, oldest first."""
    from alembic.script import ScriptDirectory

    scripts = ScriptDirectory.from_config(_config("alembic")).walk_revisions()
    return [script.revision for script in scripts][::-1]


def _check_known(revision: str) -> list[str]:
    """All revisions of the core in their order, `base` first, if this is one of them."""
    known = ["base", *_revisions()]
    if revision not in known:
        raise errors.UsageError(
            f"There is no revision {revision!r}; there are: {', '.join(known)}, head."
        )
    return known


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
        if not isinstance(error.orig, psycopg.Error):
            raise
        ours = translate(error.orig)
        cure = CURES.get(type(error.orig), "")
        raise type(ours)(f"{ours}{cure} Nothing was changed.") from error
    finally:
        engine.dispose()


def _current(url: str) -> Revisions:
    with open_connection(url) as connection, translated(connection):
        return revisions(connection)


def _refuse_newer(found: Revisions) -> None:
    for revision, folder in ((found.core, "versions"), (found.features, "features")):
        if revision and not any((script_location() / folder).glob(f"{revision}_*.py")):
            raise errors.SchemaTooNew(
                f"The database is at revision {revision}, of a newer version of retrieval-db. "
                "Upgrade the program."
            )


def _refuse_strangers(connection: SqlConnection) -> None:
    """Tables of our names that we did not make, where ours would be created."""
    if connection.exec_driver_sql(f"SELECT to_regclass('{CORE_TABLE}')").scalar() is not None:
        version = connection.exec_driver_sql(f"SELECT count(*) FROM {CORE_TABLE}").scalar()
        if version:
            return
    for table in ("images", "encoders", "image_features"):
        there = connection.exec_driver_sql(
            f"SELECT to_regclass(quote_ident(current_schema()) || '.{table}')"
        )
        if there.scalar() is not None:
            raise errors.ForeignTable(
                f"The database has a table `{table}` that retrieval-db did not make. Nothing was "
                f"changed. Give retrieval-db a schema of its own: {OWN_SCHEMA}"
            )


def _vector_available(connection: SqlConnection) -> bool:
    """Whether pgvector is there in a version that has halfvec, or can be created by this role."""
    row = connection.exec_driver_sql(
        """
        SELECT available.installed_version IS NOT NULL,
               to_regtype('halfvec') IS NOT NULL,
               string_to_array(default_version, '.')::int[] >= '{0,7}',
               (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)
                   OR (SELECT bool_and(version.trusted) FROM pg_available_extension_versions version
                       WHERE version.name = 'vector'
                         AND version.version = available.default_version)
                  AND has_database_privilege(current_database(), 'CREATE')
        FROM pg_available_extensions available WHERE name = 'vector'
        """
    ).fetchone()
    if row is None:
        return False
    installed, visible, new_enough, creatable = row
    return bool(visible if installed else new_enough and creatable)
