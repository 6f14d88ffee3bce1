"""`load` as a user types it, and a search in what it loaded."""

from __future__ import annotations

import json
import pickle
from pathlib import Path

import pytest

import retrieval_db
from retrieval_db.console import formats_commands
from retrieval_db.exporting import WRITERS
from retrieval_db.interchange import SOURCES, open_source
from retrieval_db.loading import bulk
from tests import command, old_files
from tests.code_files import write


def test_the_command_knows_every_format() -> None:
    assert [kind.value for kind in formats_commands.FormatIn] == list(SOURCES)
    assert [kind.value for kind in formats_commands.FormatOut] == list(WRITERS)


class TestCommand:
    """`retrieval-db load`, with all that may be said to it."""

    @pytest.fixture
    def url(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
        return database_url

    def test_a_dry_run_touches_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "img.sql"
        file.write_bytes(
            old_files.dump([("/SUN397/m/house/a.jpg", 1, 2, 3, 4), (None, 1, 2, 3, 4)])
        )
        outcome = command.succeed("load", file, "--dry-run", "--labels", "folder")
        assert f"{file}: mysql, 1 codes of 128 bits; 1 labels, 0 content hashes" in outcome.out
        assert "/SUN397/m/house/a.jpg" in outcome.out
        assert "00000001000000020000000300000004" in outcome.out
        assert "house" in outcome.out
        assert "1 rows without a path or code are left out." in outcome.err
        assert "give --encoder NAME" in outcome.err
        outcome = command.succeed("load", file, "--dry-run", "--json", "-e", "old")
        assert json.loads(outcome.out) == {
            "file": str(file), "format": "mysql", "encoder": "old", "bits": 128, "rows": 1,
            "labels": 0, "hashes": 0, "metadata": 0, "features": 0,
            "first": [{"path": "/SUN397/m/house/a.jpg", "label": None,
                       "code": "00000001000000020000000300000004"}],
            "remarks": ["1 rows without a path or code are left out."],
        }  # fmt: skip

    def test_every_format(self, url: str, tmp_path: Path) -> None:
        rows = [(f"/a/{row % 3}/{row}.jpg", row, 2**32 - 1, 3, 4) for row in range(50)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows))
        (tmp_path / "pickle").write_bytes(pickle.dumps([row[1:] for row in rows]))
        write(tmp_path / "paths", "\n".join(row[0] for row in rows))
        header = "path,code_1,code_2,code_3,code_4\n"
        write(tmp_path / "csv", header + "".join(",".join(map(str, row)) + "\n" for row in rows))
        hexes = ["".join(f"{word:08x}" for word in row[1:]) for row in rows]
        write(tmp_path / "list", "\n".join(hexes))
        write(tmp_path / "labels", "path,label\n/a/1/1.jpg,one\n")
        with_paths = ("--paths", tmp_path / "paths")
        for name, more in {
            "dump": ("--labels", "folder"), "pickle": with_paths, "csv": (),
            "list": (*with_paths, "--labels", tmp_path / "labels"),
        }.items():  # fmt: skip
            outcome = command.succeed("load", tmp_path / name, "-e", name, *more)
            assert outcome.out.startswith(f"{name}: 50 new, 0 updated in "), name
        with retrieval_db.connect(url) as db:
            for name in ("dump", "pickle", "csv", "list"):
                found = db.connection.execute(
                    "SELECT path, code_1, code_2, code_3, code_4 FROM images JOIN encoders ON "
                    "encoders.id = encoder_id WHERE name = %s ORDER BY images.id",
                    [name],
                ).fetchall()
                assert found == rows, name
            labels: dict[str, list[str]] = dict(
                db.connection.execute(
                    "SELECT name, array_agg(DISTINCT label) FROM images JOIN encoders ON "
                    "encoders.id = encoder_id WHERE label IS NOT NULL GROUP BY name"
                ).fetchall()
            )
        assert labels == {"dump": ["0", "1", "2"], "list": ["one"]}

    def test_nothing_is_written_of_a_file_with_an_error_at_its_end(
        self, url: str, tmp_path: Path
    ) -> None:
        rows = [(f"{row}.jpg", 1, 2, 3, 4) for row in range(100)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows) + b"INSERT INTO img VALUES (1,'a'")
        outcome = command.run("load", tmp_path / "dump", "-e", "old")
        assert outcome.code == 1
        assert "cut off" in outcome.err
        with retrieval_db.connect(url) as db:
            assert db.encoders() == []

    def test_an_interrupted_load_is_continued(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        rows = [(f"{row}.jpg", row, 2, 3, 4) for row in range(45)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows, at_once=7))

        def stop(rows: int) -> None:
            raise KeyboardInterrupt

        with retrieval_db.connect(url) as db:
            with pytest.raises(KeyboardInterrupt):
                db.load(open_source(tmp_path / "dump"), encoder="old", progress=stop)
            assert db.connection.execute("SELECT count(*) FROM images").fetchone() == (10,)
            outcome = command.succeed("load", tmp_path / "dump", "-e", "old")
            assert outcome.out.startswith("old: 35 new, 10 updated")
            found = db.connection.execute("SELECT path, code_1 FROM images ORDER BY id").fetchall()
        assert found == [row[:2] for row in rows]

    def test_paths_that_come_again_are_said(self, url: str, tmp_path: Path) -> None:
        file = write(tmp_path / "a", "00ff a\nff00 a\nffff b\n")
        outcome = command.succeed("load", file, "-e", "old")
        assert outcome.out.startswith("old: 2 new, 0 updated")
        assert "1 row has a path that comes again: its last code counts." in outcome.err
        with retrieval_db.connect(url) as db:
            found = db.connection.execute("SELECT path, code_1 FROM images ORDER BY id").fetchall()
        assert found == [("a", 15), ("b", 15)]

    @pytest.mark.parametrize(
        ("code", "arguments", "message"),
        [
            (2, ["--bits", "13"], "multiple of 4"),
            (2, ["--format", "xml"], "xml"),
            (1, ["--format", "mysql"], "no INSERTs"),
            (2, [], "give --encoder NAME"),
            (1, ["-e", "x", "--labels", "nowhere.csv"], "nowhere.csv"),
            (1, ["-e", "x", "--paths", "nowhere"], "There is no file nowhere"),
        ],
    )
    def test_wrong_usage(
        self, url: str, tmp_path: Path, code: int, arguments: list[str], message: str
    ) -> None:
        file = write(tmp_path / "a", "00ff\n")
        outcome = command.run("load", file, *arguments)
        assert message in outcome.err
        assert outcome.code == code


def test_a_list_of_hashes_can_be_asked_for(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
    write(tmp_path / "haystack.txt", "00ff a\nff00 b\n00fe c\n")
    write(tmp_path / "needles.txt", "00ff\n")
    command.succeed("load", tmp_path / "haystack.txt", "-e", "hashes")
    outcome = command.succeed(
        "search", "--codes", tmp_path / "needles.txt", "-e", "hashes", "-k", "2", "--json"
    )
    (answer,) = json.loads(outcome.out)
    assert [(hit["path"], hit["distance"]) for hit in answer["hits"]] == [("a", 0), ("c", 1)]
