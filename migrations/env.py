"""How Alembic reaches the database: online with a connection, offline as a SQL script."""

from __future__ import annotations

from typing import Any

from alembic import context
from sqlalchemy import Connection

from retrieval_db.database import migration_engine
from retrieval_db.schema import CoreBase, FeaturesBase

config = context.config
VERSION_TABLE = config.get_main_option("version_table")
METADATA = (
    FeaturesBase.metadata if VERSION_TABLE == "retrieval_db_features_version" else CoreBase.metadata
)


def include_name(name: str | None, kind: str, parents: Any) -> bool:
    """Compare only tables of this history, so that neither finds the other's superfluous."""
    return kind != "table" or name in METADATA.tables


def include_object(item: Any, name: str | None, kind: str, reflected: bool, other: Any) -> bool:
    """Leave the bucket indexes out: `tune` adds and drops them, each for one encoder."""
    return not (kind == "index" and reflected and str(name).startswith("images_bucket_"))


# Functions keep the path that they are made with. Not `"$user"`, another one for each caller,
# but what it stands for; the session's temporary tables last, or they would be found first.
SEARCH_PATH = """
SELECT set_config('search_path', string_agg(quote_ident(name), ', ') || ', pg_temp', true)
FROM unnest(current_schemas(false)) AS path (name)
"""


def migrate() -> None:
    with context.begin_transaction():
        context.execute(SEARCH_PATH)
        context.run_migrations()


def run(connection: Connection) -> None:
    context.configure(
        connection=connection,
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        include_name=include_name,
        include_object=include_object,
    )
    migrate()


if context.is_offline_mode():
    context.configure(
        dialect_name="postgresql",
        target_metadata=METADATA,
        version_table=VERSION_TABLE,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
    )
    migrate()
elif (shared := config.attributes.get("connection")) is not None:
    run(shared)
else:
    with migration_engine(context.get_x_argument(as_dictionary=True).get("url")).begin() as own:
        run(own)
