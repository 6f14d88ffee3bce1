"""The old table as a view: the old queries, word for word."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import CodeSet, codes, migration
from retrieval_db.client import Database
from retrieval_db.errors import DatabaseError, ForeignTable, UnknownEncoder, UsageError
from tests import command, example

# As the MySQL-era program sends it.
OLD_QUERY = (
    "select path from img where hammingdistance({0},{1},{2},{3},code_1,code_2,code_3,code_4) <= 36 "
    "order by hammingdistance({0},{1},{2},{3},code_1,code_2,code_3,code_4) asc, id desc limit 20"
)


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with retrieval_db.connect(database_url) as found:
        yield found


def fill(db: Database) -> CodeSet:
    """Two encoders, of which the view shows one."""
    example.filled(db.connection, "clustered", 50, 64, "other")
    return example.filled(db.connection, "clustered", 400, 128, "old one's", seed=1)


def old_answer(items: CodeSet, query: int) -> list[str]:
    """What the old system answers: by distance, then the highest id."""
    distances = codes.hamming_distances(items.codes[query][None], items.codes)[0]
    order = sorted(range(len(items)), key=lambda row: (distances[row], -row))
    return [items.paths[row] for row in order if distances[row] <= 36][:20]


def test_the_old_query_runs_unchanged(any_database_url: str) -> None:
    with retrieval_db.connect(any_database_url) as db:
        items = fill(db)
        db.create_legacy_view("old one's")
        for query in range(0, 400, 23):
            words = codes.words_of(items.codes[query], 128)
            assert all(0 <= word < 2**32 for word in words)
            rows = db.connection.execute(OLD_QUERY.format(*words)).fetchall()
            assert [path for (path,) in rows] == old_answer(items, query)
        shown = db.connection.execute("select * from img")
        assert len(shown.fetchall()) == 400
        assert shown.description is not None
        names = [column.name for column in shown.description]
        assert names == ["id", "path", "code_1", "code_2", "code_3", "code_4"]
        assert [column.type_display for column in shown.description] == [
            "int8",
            "text",
            *["int8"] * 4,
        ]


def test_it_is_scanned_with_the_function_inlined(db: Database) -> None:
    fill(db)
    db.create_legacy_view("old one's")
    plan = "\n".join(
        row[0] for row in db.connection.execute("EXPLAIN VERBOSE " + OLD_QUERY.format(1, 2, 3, 4))
    )
    assert "Scan" in plan
    assert "bit_count" in plan
    assert "hammingdistance" not in plan


def test_another_encoder_name_and_schema(db: Database) -> None:
    fill(db)
    db.connection.execute('CREATE SCHEMA "old; place"')
    name = 'i"; DROP TABLE images; --'
    for encoder, count in (("other", 50), ("old one's", 400)):
        db.create_legacy_view(encoder, name=name, schema="old; place")
        rows = db.connection.execute(
            """SELECT count(*) FROM "old; place"."i""; DROP TABLE images; --" """
        ).fetchone()
        assert rows == (count,)
    db.drop_legacy_view(name=name, schema="old; place")
    with pytest.raises(UsageError, match="no view"):
        db.drop_legacy_view(name=name, schema="old; place")


def test_it_outlives_its_encoder(db: Database) -> None:
    items = fill(db)
    db.create_legacy_view("old one's")
    db.remove_encoder("old one's")
    assert db.connection.execute("SELECT count(*) FROM img").fetchone() == (0,)
    db.load(items)
    assert db.connection.execute("SELECT count(*) FROM img").fetchone() == (400,)


@pytest.mark.parametrize(
    "made",
    [
        "CREATE TABLE img (id int)",
        "CREATE VIEW img AS SELECT 1",
        "CREATE MATERIALIZED VIEW img AS SELECT 1",
        "CREATE SEQUENCE img",
    ],
)
def test_what_is_not_ours_stays(db: Database, made: str) -> None:
    fill(db)
    db.connection.execute(made)
    kind = made.split()[1].lower()
    for work in (lambda: db.create_legacy_view("other"), db.drop_legacy_view):
        with pytest.raises(ForeignTable, match=rf"There is a {kind}.* 'img' .*--schema"):
            work()


def test_its_name_cannot_be_that_of_a_table_of_ours(db: Database) -> None:
    fill(db)
    with pytest.raises(ForeignTable, match="There is a table 'images'"):
        db.create_legacy_view("other", name="images")


def test_the_way_down_names_the_view(db: Database) -> None:
    fill(db)
    db.create_legacy_view("other")
    with pytest.raises(DatabaseError, match="legacy-view --drop"):
        migration.downgrade(db.target.url)
    db.drop_legacy_view()
    migration.downgrade(db.target.url)


def test_the_command(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_URL", db.target.url)
    outcome = command.run("legacy-view")
    assert outcome.code == 1
    assert "no codes yet" in outcome.err
    fill(db)
    assert "name one of: " in command.run("legacy-view").err
    outcome = command.succeed("legacy-view", "old one's")
    assert "The view 'img' shows the images of \"old one's\"." in outcome.err
    assert db.connection.execute("SELECT count(*) FROM img").fetchone() == (400,)
    assert "Dropped the view 'img'." in command.succeed("legacy-view", "--drop").err
    assert command.run("legacy-view", "--drop").code == 2
    assert command.run("legacy-view", "other", "--schema", "nowhere").code == 1
    with pytest.raises(UnknownEncoder):
        db.create_legacy_view("nobody")


def test_words_are_those_of_the_old_system(db: Database) -> None:
    words = np.array([[4076301309, 917904382, 1211050903, 2286664558]])
    db.load(CodeSet(codes.from_words(words, 128), 128, ["a"]), encoder="x")
    db.create_legacy_view()
    found = db.connection.execute("SELECT code_1, code_2, code_3, code_4 FROM img").fetchall()
    assert found == [tuple(words[0].tolist())]


def test_a_reader_needs_the_view_alone(db: Database) -> None:
    fill(db)
    db.create_legacy_view("other")
    db.connection.execute("CREATE ROLE reader_of_img")
    try:
        db.connection.execute("GRANT SELECT ON img TO reader_of_img")
        db.connection.execute("SET ROLE reader_of_img")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            db.connection.execute("SELECT FROM images")
        query = OLD_QUERY.format(1, 2, 3, 4).replace("<= 36", "<= 64")
        assert len(db.connection.execute(query).fetchall()) == 20
    finally:
        db.connection.execute("RESET ROLE")
        db.connection.execute("DROP OWNED BY reader_of_img")
        db.connection.execute("DROP ROLE reader_of_img")
