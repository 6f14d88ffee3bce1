"""`retrieval-db db …`: the embedded server, and where an external one is."""

from __future__ import annotations

import os

import typer

from retrieval_db.database import ENVIRONMENT, open_connection, resolve
from retrieval_db.errors import RetrievalError
from retrieval_db.server import Server

from . import reports
from .options import DatabaseOption, JsonOption
from .screen import note

commands = typer.Typer(help="The embedded PostgreSQL server.", no_args_is_help=True)


@commands.command("start")
def start() -> None:
    """Start the embedded server, creating it the first time."""
    Server(notify=note).start()
    status(None)


@commands.command("stop")
def stop() -> None:
    """Stop the embedded server."""
    stopped = Server(notify=note).stop()
    note("The embedded server has stopped." if stopped else "The embedded server was not running.")


@commands.command("status")
def status(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show whether the server runs, embedded or external; change nothing."""
    external = database or next(filter(None, map(os.environ.get, ENVIRONMENT)), None)
    if external is None:
        reports.server_status(Server(notify=note).status(), as_json=as_json)
        return
    target = resolve(external)
    with open_connection(target.url) as connection:
        reports.external_status(target, connection, as_json=as_json)


@commands.command("url")
def url(database: DatabaseOption = None) -> None:
    """Print a URL that psql and psycopg take; the server is left running."""
    print(resolve(database, report=note).url)


@commands.command("shell")
def shell(database: DatabaseOption = None) -> None:
    """Open psql on the database."""
    target = resolve(database, report=note)
    argv = Server(notify=note).shell_command() if target.embedded else ["psql", target.url]
    try:
        os.execvp(argv[0], argv)
    except FileNotFoundError as error:
        raise RetrievalError(
            "There is no psql here; install PostgreSQL's client programs."
        ) from error


@commands.command("upgrade")
def upgrade() -> None:
    """Bring the embedded server's data to the installed major version."""
    old = Server(notify=note).upgrade()
    note("Nothing to upgrade." if old is None else f"Upgraded. The old data may be deleted: {old}")
