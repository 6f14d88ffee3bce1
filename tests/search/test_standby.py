"""Searches answer where nothing can be written: on a standby, in a read-only transaction."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import numpy as np
import psycopg
import pytest

import retrieval_db
from retrieval_db import codes
from retrieval_db.database import Connection
from retrieval_db.errors import PermissionDenied
from retrieval_db.server import installation
from tests import command, example, postgres

BITS = 64
ROWS = 21_000
READER = "reader_of_codes"

SEARCH = "SELECT path, distance, exact FROM search_codes('example', %s, %s, %s, %s, k => %s)"
EXPLAIN = "SELECT plan, exact FROM explain_search('example', %s, %s, %s, %s, k => %s)"
PAIRS = "SELECT path_1, path_2, distance FROM near_duplicates('example', 2)"


class Standby(postgres.Cluster):
    """A server that follows another one, streaming its changes."""

    def __init__(self, primary: postgres.Cluster) -> None:
        self.primary = primary
        super().__init__(primary.major)

    def _create(self) -> None:
        for folder in (self.data_dir, self.socket_dir):
            folder.mkdir(mode=0o700)
            self._account.give(folder)
        # --write-recovery-conf: standby.signal, and where to stream from.
        backup = [str(self.installation.program("pg_basebackup")), "--write-recovery-conf"]
        backup += ["--pgdata", str(self.data_dir), "--checkpoint=fast", "--no-sync"]
        source = ["--dbname", self.primary.url("postgres")]
        installation.run([*backup, *source], self._account, self.folder)

    def catch_up(self) -> None:
        """Wait until everything that the primary has done can be seen here."""
        with example.connect(self.primary.url("postgres")) as connection:
            connection.execute("CHECKPOINT")  # the last changes may still be in memory only
            row = connection.execute("SELECT pg_current_wal_lsn()::text").fetchone()
        deadline = time.monotonic() + 60
        with example.connect(self.url("postgres")) as connection:
            while True:
                there = connection.execute(
                    "SELECT pg_last_wal_replay_lsn() >= %s::pg_lsn", row
                ).fetchone()
                if there == (True,):
                    return
                assert time.monotonic() < deadline, "The standby does not follow."
                time.sleep(0.02)


class Pair:
    """A primary with codes, its standby, and a role that may only read."""

    def __init__(self, database: str, standby: Standby, items: retrieval_db.CodeSet) -> None:
        self.standby = standby
        self.items = items
        self.writer_url = standby.primary.url(database)
        self.primary_reader_url = standby.primary.url(database, READER)
        self.standby_url = standby.url(database)
        self.standby_reader_url = standby.url(database, READER)


# Two codes that are one bit apart: uniform ones have no near-duplicates.
PLANT = """
UPDATE images AS copy
SET code_1 = code.code_1, code_2 = code.code_2, code_3 = code.code_3, code_4 = code.code_4 # 1
FROM images AS code WHERE code.path = 'example/0.jpg' AND copy.path = 'example/1.jpg'
"""


@pytest.fixture(scope="module")
def pair(cluster: postgres.Cluster) -> Iterator[Pair]:
    with cluster.database(cluster.template()) as url, retrieval_db.connect(url) as db:
        run = db.connection.execute
        example.filled(db.connection, "uniform", ROWS, BITS)
        run(PLANT)
        run(f"CREATE ROLE {READER} LOGIN".encode())
        standby = None
        try:
            run(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {READER}".encode())
            run(f"REVOKE TEMPORARY ON DATABASE {db.connection.info.dbname} FROM PUBLIC".encode())
            run("VACUUM (ANALYZE) images")
            standby = Standby(cluster)
            standby.catch_up()
            yield Pair(db.connection.info.dbname, standby, stored(db.connection))
        finally:
            if standby is not None:
                standby.remove()
            run(f"DROP OWNED BY {READER}; DROP ROLE {READER}".encode())


def stored(connection: Connection) -> retrieval_db.CodeSet:
    """The codes as they stand in the table."""
    rows = connection.execute(
        "SELECT code_1, code_2, code_3, code_4 FROM images ORDER BY id"
    ).fetchall()
    return example.code_set(codes.from_words(np.array(rows, dtype=np.int64), BITS), BITS)


def check_answers(connection: Connection, items: retrieval_db.CodeSet) -> None:
    """The SQL functions give what brute force does, by way of the bucket indexes."""
    random = example.random_codes("uniform", 3, BITS, seed=5)
    for query in np.concatenate([items.codes[:3], random]):
        words = codes.words_of(query, BITS)
        rows = connection.execute(SEARCH, [*words, 10]).fetchall()
        assert [row[:2] for row in rows] == example.nearest(items, query, 10)
        assert all(row[2] for row in rows)
    nearest = codes.words_of(items.codes[0], BITS)
    assert connection.execute(EXPLAIN, [*nearest, 1]).fetchone() == ("buckets", True)
    assert connection.execute(PAIRS).fetchall() == [("example/0.jpg", "example/1.jpg", 1)]


def test_a_standby_answers_in_sql(pair: Pair) -> None:
    with example.connect(pair.standby_reader_url) as connection:
        assert connection.execute("SELECT pg_is_in_recovery()").fetchone() == (True,)
        check_answers(connection, pair.items)


def test_a_standby_answers_in_python_and_on_the_command_line(pair: Pair) -> None:
    query = pair.items.codes[7]
    nearest = example.nearest(pair.items, query, 5)
    with retrieval_db.connect(pair.standby_reader_url) as db:
        result = db.search(query, k=5)
        assert [(hit.path, hit.distance) for hit in result.hits] == nearest
        assert result.exact
        assert db.search_batch(pair.items.codes[:4], k=1).distances.tolist() == [[0]] * 4
        found = [(near.path_1, near.path_2) for near in db.near_duplicates(radius=2)]
        assert found == [("example/0.jpg", "example/1.jpg")]
        assert len(db.duplicate_groups(radius=2)) == 1
    place = ["--database", pair.standby_reader_url]
    outcome = command.succeed("search", "--code", query.tobytes().hex(), "-k", 5, "--json", *place)
    hits = json.loads(outcome.out)[0]["hits"]
    assert [(hit["path"], hit["distance"]) for hit in hits] == nearest
    explained = command.succeed("search", "--id", 1, "--explain", *place)
    assert "example/1.jpg" in explained.out
    outcome = command.succeed("duplicates", "--radius", 2, "--json", *place)
    assert "example/1.jpg" in outcome.out


def test_codes_in_memory_follow_the_primary(pair: Pair) -> None:
    """Also a transaction that was in progress: snapshots on a standby do not list it."""
    query = pair.items.codes[7]
    with (
        retrieval_db.connect(pair.standby_reader_url) as db,
        psycopg.connect(pair.writer_url) as writer,
        example.connect(pair.writer_url) as other,
    ):
        writer.execute("UPDATE images SET label = 'rare' WHERE path = 'example/7.jpg'")
        other.execute("UPDATE images SET label = 'rare' WHERE path = 'example/8.jpg'")
        for paths in (["example/8.jpg"], ["example/7.jpg", "example/8.jpg"]):
            pair.standby.catch_up()
            found = db.search(query, labels=["rare"], source="memory")
            assert [hit.path for hit in found.hits] == paths
            assert found.hits == db.search(query, labels=["rare"]).hits
            writer.commit()
        assert (db.memory_source().full_reads, db.memory_source().partial_reads) == (1, 1)


def test_a_standby_says_that_it_cannot_be_written_to(pair: Pair) -> None:
    with (
        retrieval_db.connect(pair.standby_url) as db,
        pytest.raises(PermissionDenied, match="read-only"),
    ):
        db.load(example.code_set(pair.items.codes[:5], BITS))
    outcome = command.run("tune", "--database", pair.standby_url)
    assert (outcome.code, outcome.out) == (1, "")
    assert "read-only" in outcome.err


def test_a_read_only_transaction_answers(pair: Pair) -> None:
    with psycopg.connect(pair.primary_reader_url) as connection:
        connection.read_only = True
        connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
        assert connection.execute("SHOW transaction_read_only").fetchone() == ("on",)
        check_answers(connection, pair.items)


def test_an_open_session_on_the_standby_follows_a_tune(pair: Pair) -> None:
    query = codes.words_of(pair.items.codes[0], BITS)
    with example.connect(pair.standby_reader_url) as reader:
        check_answers(reader, pair.items)
        with retrieval_db.connect(pair.writer_url) as db:
            db.tune(widths=[13, 13, 13, 13, 12])
            db.connection.execute("DELETE FROM images WHERE path = 'example/0.jpg'")
        pair.standby.catch_up()
        rows = reader.execute(SEARCH, [*query, 1]).fetchall()
        assert rows == [("example/1.jpg", 1, True)]
        assert reader.execute(EXPLAIN, [*query, 1]).fetchone() == ("buckets", True)
        assert reader.execute(PAIRS).fetchall() == []
