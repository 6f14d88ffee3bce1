"""The table of the MySQL era, `img(id, path, code_1 … code_4)`, as a view on one encoder."""

from __future__ import annotations

from psycopg import sql

from .database import Connection, translated
from .encoders import StoredEncoder
from .errors import ForeignTable, UsageError
from .sql import queries

SQL = queries("legacy")

VIEW = "img"
# How a view's comment begins if we made it.
OURS = "retrieval-db: the images of "
KINDS = {"r": "table", "p": "table", "v": "view", "m": "materialized view", "S": "sequence"}


def create_view(
    connection: Connection, encoder: StoredEncoder, *, name: str = VIEW, schema: str | None = None
) -> None:
    """Create the view, or point the one that is there at this encoder.

    Args:
        schema: where to; by default the first of the search path.

    Raises:
        ForeignTable: something else has that name.
        PermissionDenied: the role may not create views there.
    """
    with translated(connection), connection.transaction():
        _is_ours(connection, name, schema)
        view = _identifier(name, schema)
        create = sql.SQL(SQL["create"]).format(view=view, encoder=sql.Literal(encoder.name))
        connection.execute(create)
        comment = f"{OURS}{encoder.name} in the columns of the MySQL era"
        connection.execute(sql.SQL(SQL["comment"]).format(view=view, comment=sql.Literal(comment)))


def drop_view(connection: Connection, *, name: str = VIEW, schema: str | None = None) -> None:
    """Drop the view.

    Raises:
        UsageError: there is none.
        ForeignTable: what has that name is not ours.
    """
    with translated(connection), connection.transaction():
        if not _is_ours(connection, name, schema):
            raise UsageError(f"There is no view {name!r}" + (f" in {schema}." if schema else "."))
        connection.execute(sql.SQL(SQL["drop"]).format(view=_identifier(name, schema)))


def _identifier(name: str, schema: str | None) -> sql.Identifier:
    return sql.Identifier(name) if schema is None else sql.Identifier(schema, name)


def _is_ours(connection: Connection, name: str, schema: str | None) -> bool:
    """Whether a view of ours is there; False if the name is free."""
    row = connection.execute(SQL["relation"], {"name": name, "schema": schema}).fetchone()
    if row is None:
        return False
    kind, comment = row
    if kind != "v" or not comment.startswith(OURS):
        raise ForeignTable(
            f"There is a {KINDS.get(kind, 'relation')} {name!r} that this command did not make. "
            "Nothing was changed. Give the view another name (--name) or schema (--schema)."
        )
    return True
