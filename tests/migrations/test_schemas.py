"""The tables live in any schema, whatever its name, and are found there by anybody."""

from __future__ import annotations

import pytest
from psycopg import sql

import retrieval_db
from retrieval_db import codes, layouts, migration
from tests import example


@pytest.mark.parametrize("name", ["Tenant-1", "My Schema", 'a "quoted" one'])
def test_a_name_that_needs_quotes(empty_database_url: str, name: str) -> None:
    with example.connect(empty_database_url) as connection:
        connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(name)))
        path = sql.SQL("ALTER DATABASE {} SET search_path = {}, public").format(
            sql.Identifier(connection.info.dbname), sql.Identifier(name)
        )
        connection.execute(path)
    migration.upgrade(empty_database_url)
    with retrieval_db.connect(empty_database_url) as db:
        items = example.filled(db.connection, "clustered", 25_000, 100)
        layout = layouts.layout_of(db.connection, db.encoder())
        assert layout is not None
        assert not layout.shared, "the load built no indexes"
        assert db.search(items.codes[3]).plan == "buckets"
        assert db.tune().layout.id != layout.id
        assert db.remove_encoder("example") == 25_000
        left = db.connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace"
            r" WHERE nspname = %s AND relname ~ '^images_bucket_\d+' AND relname !~ '_[12]_\d+$'",
            [name],
        ).fetchall()
        assert left == []


def test_who_has_a_schema_of_the_same_name_finds_the_tables(database_url: str) -> None:
    """`"$user"` in the path of whoever migrated is not that of who searches."""
    with retrieval_db.connect(database_url) as db:
        items = example.filled(db.connection, "clustered", 300, 64)
        expected = db.search(items.codes[3]).hits
        for statement in (
            "CREATE ROLE searcher",
            "GRANT SELECT ON ALL TABLES IN SCHEMA public TO searcher",
            "CREATE SCHEMA searcher",
            "CREATE TABLE searcher.encoders (id integer)",
            "GRANT ALL ON SCHEMA searcher TO searcher",
            "GRANT ALL ON searcher.encoders TO searcher",
        ):
            db.connection.execute(statement)
        try:
            with db.connection.transaction():
                db.connection.execute("SET LOCAL ROLE searcher")
                found = db.connection.execute(
                    "SELECT path FROM search_codes('example', %s, %s, %s, %s)",
                    codes.words_of(items.codes[3], 64),
                ).fetchall()
            assert [row[0] for row in found] == [hit.path for hit in expected]
        finally:
            db.connection.execute("DROP OWNED BY searcher CASCADE")
            db.connection.execute("DROP SCHEMA searcher CASCADE")
            db.connection.execute("DROP ROLE searcher")


def test_functions_of_before_are_brought_along(database_url: str) -> None:
    """They had the path of whoever migrated, in which temporary tables come first."""
    migration.move(database_url, "0012")
    with example.connect(database_url) as connection:
        connection.execute("""ALTER FUNCTION search_codes SET search_path = "$user", public""")
        connection.execute("ALTER FUNCTION search_layout_1 SET search_path = public")
    assert migration.upgrade(database_url).current
    with example.connect(database_url) as connection:
        paths = connection.execute(
            "SELECT proname, setting FROM pg_proc, unnest(proconfig) AS setting"
            " WHERE setting ~ '^search_path=' AND pronamespace = 'public'::regnamespace"
        ).fetchall()
    assert len(paths) > 30
    assert {path for _, path in paths if not path.endswith(", pg_temp") or "$user" in path} == set()
