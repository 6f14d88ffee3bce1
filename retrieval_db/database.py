"""The way to the database: URL, connections, engine, and the driver's errors as ours."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import TransactionStatus

from . import errors

if TYPE_CHECKING:
    from sqlalchemy import Engine

Connection = psycopg.Connection[tuple[Any, ...]]
Written = TypeVar("Written")

ENVIRONMENT = ("RETRIEVAL_DB_URL", "DATABASE_URL")

# SQLSTATEs that our functions raise, class RD, and what they are in Python.
OURS = {
    "RD001": errors.UnknownEncoder,
    "RD002": errors.WrongWidth,
    "RD003": errors.UsageError,
    "RD005": errors.TooManyPairs,
    "RD006": errors.DatabaseError,
}
GONE = ("57P01", "57P02", "57P03", "08")


@dataclass(frozen=True)
class Target:
    """A database and how it was chosen.

    Attributes:
        url: a libpq URL or connection string, as psql and psycopg take it.
        source: what named it: `--database`, an environment variable, or `embedded`.
    """

    url: str
    source: str

    @property
    def embedded(self) -> bool:
        """Whether it is the embedded server, which we start and migrate ourselves."""
        return self.source == "embedded"

    def __str__(self) -> str:
        parts = conninfo_to_dict(self.url)
        place = parts.get("host") or "local socket"
        if port := parts.get("port"):
            place = f"{place}:{port}"
        return f"{parts.get('dbname') or 'default database'} on {place} ({self.source})"


def resolve(
    url: str | None = None, *, report: Callable[[str], None] = lambda message: None
) -> Target:
    """Choose the database: `url`, RETRIEVAL_DB_URL, DATABASE_URL, else the embedded server.

    Args:
        url: libpq or SQLAlchemy form.
        report: told what takes time, such as the first start of the embedded server.

    Raises:
        ConnectionFailed: the URL cannot be read.
        ServerError: the embedded server does not start.
    """
    choices = [("--database", url), *((name, os.environ.get(name)) for name in ENVIRONMENT)]
    for source, value in choices:
        if value:
            return Target(libpq_url(value), source)
    from .server import Server, default_home

    server = Server(default_home(), notify=report)
    server.start()
    return Target(server.url(), "embedded")


def libpq_url(url: str) -> str:
    """Turn a libpq or SQLAlchemy URL (`postgresql+psycopg://…`) into what libpq takes.

    Raises:
        ConnectionFailed: neither of them.
    """
    scheme, separator, rest = url.partition("://")
    if separator:
        dialect = scheme.partition("+")[0]
        if dialect not in ("postgresql", "postgres"):
            raise errors.ConnectionFailed(
                f"{scheme}:// is not PostgreSQL. A URL looks like "
                "postgresql://user:password@host:5432/database."
            )
        url = f"postgresql://{rest}"
    try:
        conninfo_to_dict(url)
    except psycopg.Error as error:
        raise errors.ConnectionFailed(
            f"The database URL cannot be read ({str(error).strip()}). It looks like "
            "postgresql://user:password@host:5432/database."
        ) from error
    return url


def open_connection(url: str, *, autocommit: bool = True) -> Connection:
    """Connect with psycopg.

    Raises:
        ConnectionFailed: no server, or it refused us.
    """
    try:
        return psycopg.connect(
            make_conninfo(libpq_url(url), fallback_application_name="retrieval-db"),
            autocommit=autocommit,
        )
    except psycopg.Error as error:
        raise errors.ConnectionFailed(
            f"Cannot connect to {Target(url, 'database')}: {str(error).strip()}\n"
            "Check the URL (--database, RETRIEVAL_DB_URL, DATABASE_URL) and that the server runs."
        ) from error


def create_database_engine(url: str, **options: Any) -> Engine:
    """A SQLAlchemy engine (psycopg 3) for a libpq or SQLAlchemy URL."""
    # Late: a search does without SQLAlchemy, which takes as long to import as all the rest.
    from sqlalchemy import create_engine

    return create_engine(
        "postgresql+psycopg://", creator=lambda: open_connection(url, autocommit=False), **options
    )


def migration_engine(url: str | None = None) -> Engine:
    """The engine that plain `alembic` uses: the database that any command would use."""
    from sqlalchemy.pool import NullPool

    return create_database_engine(resolve(url).url, poolclass=NullPool)


def in_transaction(connection: Connection) -> bool:
    """Whether the caller has a transaction open."""
    return connection.info.transaction_status is not TransactionStatus.IDLE


def insistent(write: Callable[[], Written]) -> Written:
    """Write; and write again where another client, with its locks in another order, went first."""
    while True:
        try:
            return write()
        except psycopg.errors.DeadlockDetected:
            continue


@contextmanager
def translated(connection: Connection | None = None) -> Iterator[None]:
    """Raise the driver's errors as ours; `connection` tells whether the server is gone."""
    try:
        yield
    except psycopg.Error as error:
        raise translate(error, connection) from error


def translate(error: psycopg.Error, connection: Connection | None = None) -> Exception:
    """The exception of ours that says what a driver's error means for the user."""
    state = error.sqlstate or ""
    message = error.diag.message_primary or str(error).strip()
    if state in OURS:
        hint = error.diag.message_hint
        return OURS[state](f"{message} {hint}" if hint else message)
    if state.startswith(GONE) or (connection is not None and connection.broken):
        return errors.ConnectionLost()
    if connection is not None and connection.closed:
        return errors.DatabaseError("The connection is closed: `connect` again.")
    match state:
        case "42P01":
            return errors.NotMigrated(f"{errors.NotMigrated.__doc__} ({message})")
        case "42501" | "25006":
            return errors.PermissionDenied(f"The database refused: {message}.")
        case "57014":
            return errors.DatabaseError("The statement was cancelled (statement_timeout?).")
    return errors.DatabaseError(f"The database answered: {message}")
