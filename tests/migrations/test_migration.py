"""Databases get to the revision of this program and back, or are refused unchanged."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from alembic.script import ScriptDirectory

import retrieval_db
from retrieval_db import codes, migration, write_npz
from retrieval_db.errors import (
    DatabaseError,
    ForeignTable,
    NotMigrated,
    PermissionDenied,
    SchemaTooNew,
    UsageError,
)
from retrieval_db.migration import CORE_HEAD, FEATURES_HEAD
from tests import command, example, postgres, schema_snapshot
from tests.conftest import ROOT


def as_role(url: str, role: str) -> str:
    return url.replace("postgres@", f"{role}@", 1)


def with_search_path(url: str, path: str) -> str:
    return f"{url}&options=-csearch_path%3D{path}"


def new_role(url: str) -> str:
    """The URL for a role that owns nothing and may do nothing yet."""
    with example.connect(url) as connection:
        row = connection.execute("SELECT current_database()").fetchone()
        assert row is not None
        role = f"role_of_{row[0]}"
        connection.execute(f"DROP ROLE IF EXISTS {role}")
        connection.execute(f"CREATE ROLE {role} LOGIN")
    return as_role(url, role)


def tables(url: str) -> set[str]:
    with example.connect(url) as connection:
        found = connection.execute(
            "SELECT relname FROM pg_class JOIN pg_namespace ON relnamespace = pg_namespace.oid"
            " WHERE relkind = 'r' AND nspname NOT IN ('pg_catalog', 'information_schema')"
        )
        return {str(row[0]) for row in found}


OURS = {"images", "encoders", "image_features"}


def assert_works(url: str) -> None:
    """Load some codes, and find them."""
    with retrieval_db.connect(url) as db:
        items = example.filled(db.connection, "uniform", 20, 64, "fresh")
        assert db.search(items.codes[4], encoder="fresh", k=1).hits[0].path == items.paths[4]


class TestUpAndDown:
    """Every revision is reached from above and from below, and rows survive."""

    def test_with_data_on_every_version(
        self, any_cluster: postgres.Cluster, any_empty_database_url: str
    ) -> None:
        url = any_empty_database_url
        fine = FEATURES_HEAD if any_cluster.has_vector else None
        first, *others = migration._revisions()
        assert migration.move(url, first).core == first
        with example.connect(url) as connection:
            connection.execute(
                "INSERT INTO encoders (name, bits, fingerprint) VALUES ('early', 64, 'f');"
                "INSERT INTO images (encoder_id, bits, code_1, code_2, code_3, code_4, path)"
                " SELECT 1, 64, i, i * 7 % 65536, 0, 0, i FROM generate_series(1, 50) AS i"
            )
        for revision in others:
            assert migration.move(url, revision).core == revision
        assert migration.upgrade(url) == migration.Revisions(CORE_HEAD, fine)
        with retrieval_db.connect(url) as db:
            assert len(db.search((3, 21, 0, 0), k=60).hits) == 50
        for revision in [*others[::-1], first]:
            assert migration.move(url, revision).core == revision
        with example.connect(url) as connection:
            assert connection.execute("SELECT count(*) FROM images").fetchone() == (50,)
        assert migration.upgrade(url) == migration.Revisions(CORE_HEAD, fine)
        with retrieval_db.connect(url) as db:
            assert db.search((3, 21, 0, 0), k=1).hits[0].distance == 0
        assert migration.move(url, "base") == migration.Revisions(None, None)
        assert not tables(url) & OURS
        assert migration.upgrade(url).core == CORE_HEAD
        assert_works(url)

    def test_features_survive_all_but_base(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.code_set(example.random_codes("uniform", 20, 64), 64)
            features = np.random.default_rng(1).normal(size=(20, 8)).astype(np.float32)
            db.load(replace(items, features=features))
            query = retrieval_db.Query(codes.words_of(items.codes[3], 64), features[3])
            before = db.search(query, stage="fine").hits
        assert migration.move(database_url, "0001") == migration.Revisions("0001", "f001")
        assert migration.upgrade(database_url).current
        with retrieval_db.connect(database_url) as db:
            assert db.search(query, stage="fine").hits == before
        assert migration.move(database_url, "base") == migration.Revisions(None, None)

    def test_again_and_again(self, database_url: str) -> None:
        assert_works(database_url)
        for _ in range(2):
            assert migration.upgrade(database_url).current
        for _ in range(2):
            assert migration.move(database_url, "base").core is None
        assert str(migration.move(database_url, "head")) == f"{CORE_HEAD} and {FEATURES_HEAD}"

    def test_there_is_no_such_revision(self, database_url: str) -> None:
        with pytest.raises(UsageError, match=r"no revision '7'; there are: base, 0001, .*head"):
            migration.move(database_url, "7")
        with pytest.raises(UsageError, match="no revision '7'"):
            migration.offline_sql("7")
        with pytest.raises(UsageError, match="no way to base"):
            migration.offline_sql("base")

    @pytest.mark.parametrize(
        ("folder", "head"), [("versions", CORE_HEAD), ("features", FEATURES_HEAD)]
    )
    def test_the_heads_that_the_program_knows(self, folder: str, head: str) -> None:
        place = migration.script_location()
        scripts = ScriptDirectory(str(place), version_locations=[str(place / folder)])
        assert scripts.get_heads() == [head]


class TestAlembic:
    """What Alembic's own command line does in a checkout."""

    def alembic(self, *arguments: str, **environment: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "alembic", *arguments],
            cwd=ROOT,
            env=os.environ | environment,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout

    def test_upgrade_check_and_downgrade(self, empty_database_url: str) -> None:
        url = empty_database_url
        self.alembic("-x", f"url={url}", "upgrade", "head")
        with example.connect(url) as connection:
            assert migration.revisions(connection) == migration.Revisions(CORE_HEAD, None)
        self.alembic("-n", "features", "upgrade", "head", RETRIEVAL_DB_URL=url)
        for history in ("alembic", "features"):
            out = self.alembic("-n", history, "-x", f"url={url}", "check")
            assert "No new upgrade operations detected" in out
        assert_works(url)
        self.alembic("-n", "features", "-x", f"url={url}", "downgrade", "base")
        self.alembic("-x", f"url={url}", "downgrade", "base")
        assert not tables(url) & OURS


class TestSnapshot:
    """`docs/schema.sql` and the offline SQL say what the migrations do."""

    def test_all_migrations_make_the_snapshot(
        self, cluster: postgres.Cluster, database_url: str
    ) -> None:
        made = schema_snapshot.dump(cluster, database_url)
        assert made == schema_snapshot.SNAPSHOT.read_text(encoding="utf-8"), (
            "docs/schema.sql is not what the migrations make: python -m tests.schema_snapshot"
        )

    def test_offline_sql(
        self, cluster: postgres.Cluster, database_url: str, empty_database_url: str
    ) -> None:
        script = command.succeed("migrate", "--sql").out
        subprocess.run(
            [cluster.installation.program("psql"), "-qX", "-v", "ON_ERROR_STOP=1",
             "-d", empty_database_url],
            input=script, text=True, check=True, capture_output=True,
        )  # fmt: skip
        made, wanted = (
            schema_snapshot.dump(cluster, url) for url in (empty_database_url, database_url)
        )
        assert made == wanted
        assert_works(empty_database_url)

    def test_offline_sql_to_a_revision(self) -> None:
        script = command.succeed("migrate", "--sql", "--to", "0001").out
        assert "CREATE TABLE images" in script
        assert "halfvec" not in script


class TestRefused:
    """What is not ours, or not of our time, stays as it is, and the message names the cure."""

    @pytest.mark.parametrize("table", ["images", "encoders"])
    def test_a_foreign_table(
        self, cluster: postgres.Cluster, empty_database_url: str, table: str
    ) -> None:
        url = empty_database_url
        with example.connect(url) as connection:
            connection.execute(f"CREATE TABLE {table} (id int); INSERT INTO {table} VALUES (7)")
            connection.execute("CREATE EXTENSION vector")
        before = schema_snapshot.dump(cluster, url)
        with pytest.raises(ForeignTable, match=f"`{table}` .*CREATE SCHEMA retrieval, and"):
            migration.upgrade(url)
        assert schema_snapshot.dump(cluster, url) == before
        with pytest.raises(NotMigrated):
            retrieval_db.connect(url)
        # The cure, as the message says it.
        with example.connect(url) as connection:
            connection.execute("CREATE SCHEMA retrieval")
        own = with_search_path(url, "retrieval,public")
        assert migration.upgrade(own).features == FEATURES_HEAD
        assert_works(own)
        with retrieval_db.connect(own) as db:
            assert db.info().schema == "retrieval"
        with example.connect(url) as connection:
            assert connection.execute(f"SELECT * FROM {table}").fetchall() == [(7,)]
        assert migration.move(own, "base").core is None
        assert tables(url) & {"images", "encoders"} == {table}

    def test_a_schema_that_does_not_see_pgvector_has_no_fine_stage(
        self, empty_database_url: str
    ) -> None:
        with example.connect(empty_database_url) as connection:
            connection.execute("CREATE EXTENSION vector; CREATE SCHEMA retrieval")
        own = with_search_path(empty_database_url, "retrieval")
        assert migration.upgrade(own) == migration.Revisions(CORE_HEAD, None)
        assert_works(own)

    def test_a_search_path_without_a_schema(self, empty_database_url: str) -> None:
        url = with_search_path(empty_database_url, "nowhere")
        with pytest.raises(DatabaseError, match="CREATE SCHEMA"):
            migration.upgrade(url)

    def test_a_role_that_may_not_create(
        self, cluster: postgres.Cluster, empty_database_url: str
    ) -> None:
        before = schema_snapshot.dump(cluster, empty_database_url)
        with pytest.raises(PermissionDenied, match="GRANT CREATE ON SCHEMA"):
            migration.upgrade(new_role(empty_database_url))
        assert schema_snapshot.dump(cluster, empty_database_url) == before

    def test_not_migrated(self, empty_database_url: str, tmp_path: Path) -> None:
        codes = tmp_path / "codes.npz"
        write_npz(codes, example.code_set(example.random_codes("uniform", 3, 64), 64))
        for arguments in (
            ["info"],
            ["search", "--code", "00"],
            ["encoders", "list"],
            ["load", codes],
        ):
            outcome = command.run(*arguments, "-d", empty_database_url)
            assert outcome.code == 1
            assert "retrieval-db migrate" in outcome.err
        assert tables(empty_database_url) == set()

    def test_an_older_revision(self, database_url: str) -> None:
        migration.move(database_url, "0001")
        with pytest.raises(NotMigrated, match=r"revision 0001 and f001, .*`retrieval-db migrate`"):
            retrieval_db.connect(database_url)
        command.succeed("migrate", "-d", database_url)
        assert_works(database_url)

    def test_an_older_fine_stage(self, database_url: str) -> None:
        with example.connect(database_url) as connection:
            connection.execute("UPDATE retrieval_db_features_version SET version_num = 'f001'")
            connection.execute("DROP FUNCTION search_images")
        with pytest.raises(NotMigrated, match="f001"):
            retrieval_db.connect(database_url)
        assert migration.upgrade(database_url).current

    @pytest.mark.parametrize("table", [migration.CORE_TABLE, migration.FEATURES_TABLE])
    def test_a_newer_revision(
        self, cluster: postgres.Cluster, database_url: str, table: str
    ) -> None:
        with example.connect(database_url) as connection:
            connection.execute(f"UPDATE {table} SET version_num = '9999'")
        before = schema_snapshot.dump(cluster, database_url)
        refused: list[Callable[[], object]] = [
            lambda: retrieval_db.connect(database_url),
            lambda: migration.upgrade(database_url),
            lambda: migration.move(database_url, "base"),
            lambda: migration.move(database_url, "0001"),
        ]
        for attempt in refused:
            with pytest.raises(SchemaTooNew, match=r"9999.*Upgrade the program"):
                attempt()
        assert schema_snapshot.dump(cluster, database_url) == before


class TestRoles:
    """A role needs no more than it should."""

    def test_who_may_only_select_can_search(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.code_set(example.random_codes("uniform", 60, 64), 64)
            features = np.random.default_rng(0).normal(size=(60, 8)).astype(np.float32)
            db.load(replace(items, features=features))
        url = new_role(database_url)
        with pytest.raises(PermissionDenied):
            retrieval_db.connect(url)
        with example.connect(database_url) as connection:
            role = url.partition("//")[2].partition("@")[0]
            connection.execute(f"GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}")
        with retrieval_db.connect(url) as db:
            query = db.query_by_id(9)
            assert db.search(query, stage="coarse", k=1).hits[0].image_id == 9
            assert db.search(query, stage="fine", k=1).hits[0].image_id == 9
            assert db.info().encoders[0][1] == 60
            with pytest.raises(PermissionDenied, match="permission denied"):
                db.load(items)

    def test_the_fine_stage_comes_when_pgvector_does(self, empty_database_url: str) -> None:
        """A role that may create tables, but no extension, gets the core."""
        url = new_role(empty_database_url)
        role = url.partition("//")[2].partition("@")[0]
        with example.connect(empty_database_url) as connection:
            connection.execute(f"GRANT CREATE ON SCHEMA public TO {role}")
        assert migration.upgrade(url) == migration.Revisions(CORE_HEAD, None)
        assert_works(url)
        outcome = command.run("search", "--id", 3, "--stage", "fine", "-d", url)
        assert outcome.code == 1
        with example.connect(empty_database_url) as connection:
            connection.execute("CREATE EXTENSION vector")
        outcome = command.succeed("migrate", "-d", url)
        assert f"fine stage at {FEATURES_HEAD}" in outcome.err
        with retrieval_db.connect(url) as db:
            assert db.search(db.query_by_id(3), k=1).hits[0].distance == 0


def test_two_at_once(empty_database_url: str) -> None:
    processes = [command.start("migrate", "-d", empty_database_url) for _ in range(2)]
    for process in processes:
        _, err = process.communicate()
        assert process.returncode == 0, err
    assert_works(empty_database_url)


def test_migrations_travel_with_the_package() -> None:
    assert migration.script_location().parent == Path(retrieval_db.__file__).parent
    assert (migration.script_location() / "env.py").is_file()
