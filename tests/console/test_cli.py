"""The command line: exit codes, what goes to stdout and what to stderr, formats, wrong usage."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main

import retrieval_db
from retrieval_db import cli
from retrieval_db import encoder as encoders_of_photos
from tests import command, example, postgres

NAMES = [f"{kind}/{number}.png" for kind in ("hats", "shoes") for number in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return command.photos(tmp_path / "photos", NAMES)


@pytest.fixture
def url(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the photos of `folder`; it needs no --database."""
    monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
    command.succeed("index", folder, "-e", "phash64", "--labels", "folder")
    return database_url


@pytest.fixture(scope="module")
def shared(
    cluster: postgres.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Such a database and its folder, for tests that change neither."""
    folder = command.photos(tmp_path_factory.mktemp("shared"), NAMES)
    with cluster.database(cluster.template()) as url:
        command.succeed("index", folder, "-e", "phash64", "--labels", "folder", "-d", url)
        yield url, folder


def answers(*arguments: object, stdin: bytes = b"") -> Any:
    return json.loads(command.succeed("search", *arguments, "--json", stdin=stdin).out)


def commands() -> Iterator[tuple[str, ...]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, item in group.commands.items():
            yield (*path, name)
            if hasattr(item, "commands"):
                yield from walk(item, (*path, name))

    yield ()
    yield from walk(typer.main.get_command(cli.app), ())


class TestHelp:
    """Every command and every option says what it is for."""

    @pytest.mark.parametrize("path", list(commands()), ids=" ".join)
    def test_every_command(self, path: tuple[str, ...]) -> None:
        out = command.succeed(*path, "--help").out
        assert "Usage:" in out
        assert len(out.splitlines()) > 4

    def test_every_option(self) -> None:
        group: Any = typer.main.get_command(cli.app)
        for path in commands():
            item = group
            for name in path:
                item = item.commands[name]
            assert item.help, path
            for parameter in item.params:
                if parameter.param_type_name == "option":
                    said = parameter.help or parameter.metavar
                    assert said, (path, parameter.name)

    @pytest.mark.parametrize("name", ["search", "duplicates"])
    def test_searches_offer_no_encoder_that_they_refuse(self, name: str) -> None:
        assert "safetensors" not in command.succeed(name, "--help").out

    def test_version(self) -> None:
        assert command.succeed("--version").out == f"retrieval-db {retrieval_db.__version__}\n"

    def test_as_a_module(self) -> None:
        asked = [sys.executable, "-m", "retrieval_db", "--version"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert done.stdout == f"retrieval-db {retrieval_db.__version__}\n"

    def test_without_a_command(self) -> None:
        outcome = command.run()
        assert outcome.code == 2
        assert "Usage:" in outcome.out + outcome.err


class TestExitCodes:
    """0 is success, 1 an error, 2 wrong usage; nothing of a failure goes to stdout."""

    @pytest.mark.parametrize(
        ("code", "arguments", "message"),
        [
            (2, ["nonsense"], "nonsense"),
            (2, ["search", "--nonsense"], "nonsense"),
            (2, ["search"], "Say what to look for"),
            (2, ["search", "-k", "0", "--id", "1"], "-k"),
            (2, ["search", "--radius", "-1", "--id", "1"], "--radius"),
            (2, ["search", "--max-candidates", "0", "--id", "1"], "--max-candidates"),
            (2, ["search", "--max-ms", "0", "--id", "1"], "--max-ms"),
            (2, ["evaluate", "phash64", "--seed", str(2**63)], "--seed"),
            (2, ["thresholds", "phash64", "--seed", "-1"], "--seed"),
            (2, ["train", "--data", ".", "-o", "x.safetensors", "--seed", "-1"], "--seed"),
            (2, ["duplicates", "--since", "0001-01-01"], "--since"),
            (2, ["duplicates", "--since", "9" * 5000], "--since"),
            (2, ["search", "--sheet", "s.pdf", "--id", "1"], "--sheet s.png"),
            (2, ["search", "--id", "1", "--json", "--csv"], "Choose one of --json"),
            (2, ["search", "--id", "1", "--metadata", "{"], "is a JSON object"),
            (2, ["search", "--id", "1", "--metadata", "[1]"], "is a JSON object"),
            (2, ["search", "--id", "1", "--metadata", '{"a": NaN}'], "is a JSON object"),
            (2, ["search", "--id", "1", "--metadata", r'{"a": "\u0000"}'], "a zero byte"),
            (2, ["search", "--id", "1", "--stage", "fine"], "no fine stage"),
            (2, ["search", "--id", "1", "-e", "other"], "has a code of 'phash64'"),
            (2, ["search", "--id", "1", "-o", "/no/such/folder/a"], "Cannot write"),
            (2, ["search", "--id", "1", "--html", "/no/such/folder/a"], "Cannot write"),
            (2, ["search", "no such photo.jpg"], "no file or folder"),
            (2, ["search", "--list", "no such list"], "cannot be read"),
            (2, ["index", "no such folder"], "no file or folder"),
            (2, ["index", ".", "-e", "nonsense"], "Unknown method 'nonsense'"),
            (2, ["index", ".", "-e", "phash65"], "multiple of 4"),
            (2, ["index", ".", "-e", "phash64", "--bits", "256"], "has --bits 64, not 256"),
            (2, ["index", ".", "-e", "phash64", "--weights", "w"], "leave --weights out"),
            (2, ["evaluate", "phash64", "--plots", "/dev/null"], "/dev/null is no folder"),
            (2, ["encode", "."], "--output"),
            (1, ["search", "--id", "999"], "no image with the id 999"),
            (1, ["search", "--path", "nowhere.jpg"], "has the path 'nowhere.jpg'"),
            (2, ["search", "--code", "xyz"], "--code xyz: 'xyz' is neither"),
            (2, ["search", "--code", "00" * 16], "16 hex digits"),
            (1, ["search", "--code", "00" * 8, "-e", "other"], "There is no encoder 'other'"),
            (1, ["search", "--codes", "no.npz"], "There is no file no.npz"),
            (1, ["load", "no.npz"], "There is no file no.npz"),
            (1, ["encoders", "show", "other"], "there are: phash64."),
            (1, ["encoders", "remove", "other", "--yes"], "There is no encoder 'other'"),
            (2, ["encoders", "refit", "phash64"], "nothing to fit"),
            (2, ["encoders", "export", "phash64", "-o", "p.txt"], "-o p.txt.safetensors"),
            (2, ["encoders", "add", "no.safetensors"], "cannot be read"),
            (2, ["migrate", "--to", "7"], "no revision '7'"),
            (2, ["search", "--id", "1", "--label", "\udcff"], "is not UTF-8"),
        ],
    )
    def test_wrong_commands(
        self, shared: tuple[str, Path], monkeypatch: pytest.MonkeyPatch,
        code: int, arguments: list[str], message: str,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("RETRIEVAL_DB_URL", shared[0])
        monkeypatch.chdir(shared[1])
        monkeypatch.setenv("COLUMNS", "200")
        outcome = command.run(*arguments)
        assert outcome.code == code, outcome
        assert message in outcome.err
        assert outcome.out == ""
        assert "Traceback" not in outcome.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["duplicates", "--since", "9" * 20, "--radius", "64"],
            ["duplicates", "--radius", "9" * 14, "--group"],
            ["search", "--id", "1", "--max-ms", "1e30"],
        ],
    )
    def test_numbers_beyond_all_sense(self, shared: tuple[str, Path], arguments: list[str]) -> None:
        command.succeed(*arguments, "-d", shared[0])

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("mysql://root@localhost/photos", "mysql:// is not PostgreSQL"),
            ("nonsense", "looks like postgresql://"),
            ("postgresql://localhost:port/photos", "Cannot connect|cannot be read"),
            ("postgresql://127.0.0.1:1/photos", "that the server runs"),
            ("host=/no/such/folder dbname=photos", "that the server runs"),
            ("postgresql+psycopg://u:secret@127.0.0.1:1/photos", "photos on 127.0.0.1:1"),
        ],
    )
    def test_wrong_urls(self, url: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
        for arguments in (["info"], ["migrate"], ["db", "status"], ["search", "--id", "1"]):
            outcome = command.run(*arguments, "-d", url)
            assert (outcome.code, outcome.out) == (1, "")
            assert re.search(message, outcome.err), outcome.err
            assert "secret" not in outcome.err

    def test_there_is_no_such_database(self, database_url: str) -> None:
        outcome = command.run("info", "-d", re.sub(r"/test_\d+", "/nowhere", database_url))
        assert outcome.code == 1
        assert 'database "nowhere" does not exist' in outcome.err

    def test_an_error_in_sql_is_a_message(self, url: str) -> None:
        with example.connect(url) as connection:
            connection.execute("ALTER TABLE images RENAME TO elsewhere")
        outcome = command.run("search", "--id", 1)
        assert outcome.code == 1
        assert "`retrieval-db migrate` with the same --database" in outcome.err

    def test_a_function_that_is_not_there_is_named(self, url: str) -> None:
        with example.connect(url) as connection:
            connection.execute("ALTER FUNCTION search_codes RENAME TO elsewhere")
            connection.execute("ALTER FUNCTION run_search RENAME TO elsewhere_too")
        outcome = command.run("search", "--id", 1)
        assert outcome.code == 1
        assert "run_search" in outcome.err
        assert "migrate" not in outcome.err

    @pytest.mark.parametrize("arguments", [["info"], ["info", "--json"], ["search", "--id", "1"]])
    @pytest.mark.parametrize(("full", "code"), [(False, 0), (True, 1)])
    def test_an_output_that_takes_nothing(
        self, shared: tuple[str, Path], arguments: list[str], full: bool, code: int
    ) -> None:
        """A reader that left before the first word, and a disk without room."""
        if full and not Path("/dev/full").exists():
            pytest.skip("this system has no /dev/full")
        reader, pipe = os.pipe()
        os.close(reader)
        with open("/dev/full" if full else pipe, "wb") as out:
            done = subprocess.run(
                [*command.PROGRAM, *arguments, "-d", shared[0]],
                stdout=out, stderr=subprocess.PIPE, text=True, check=False,
            )  # fmt: skip
        said = "Error: Cannot write: No space left on device.\n" if full else ""
        assert (done.returncode, done.stderr) == (code, said)

    @pytest.mark.skipif(os.name != "posix", reason="closes a number of the system")
    def test_a_closed_output(self, shared: tuple[str, Path]) -> None:
        """Before anything is done: what is opened next would get its number."""
        done = subprocess.run(
            [*command.PROGRAM, "info", "-d", shared[0]],
            stderr=subprocess.PIPE, text=True, check=False, preexec_fn=lambda: os.close(1),
        )  # fmt: skip
        assert (done.returncode, done.stderr.count("\n")) == (2, 1)
        assert "Standard output is closed" in done.stderr

    def test_the_program_itself(self, url: str) -> None:
        """The console script, with a reader that leaves, and a stdout that is not UTF-8."""
        for arguments, code in ((["info"], 0), (["search"], 2), (["load", "x.npz"], 1)):
            process = command.start(*arguments)
            process.communicate()
            assert process.returncode == code
        many = ["search", *["--id", "1"] * 200, "--jsonl", "-k", "8"]
        reader = subprocess.Popen(
            [*command.PROGRAM, *many], stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
        assert reader.stdout is not None
        assert reader.stderr is not None
        reader.stdout.readline()
        reader.stdout.close()
        assert reader.wait() == 0
        assert reader.stderr.read() == b""
        reader.stderr.close()
        process = command.start("encoders", "list", PYTHONIOENCODING="ascii")
        out, err = process.communicate()
        assert process.returncode == 0, err
        assert b"phash64" in out

    @pytest.mark.parametrize(
        ("stopped", "arguments", "message"),
        [
            ("formats_commands.open_source", ["load", "a.npz"], "the same command continues."),
            ("training_choices.need_torch", ["train"], "same command with --resume continues."),
            ("reports.encoders", ["encoders", "list"], "Interrupted."),
        ],
    )
    def test_ctrl_c_tells_what_continues(
        self,
        url: str,
        stopped: str,
        arguments: list[str],
        message: str,
        folder: Path,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        def stop(*_: object, **__: object) -> None:
            raise KeyboardInterrupt

        monkeypatch.setattr(f"retrieval_db.console.{stopped}", stop)
        more = ["--data", folder, "-o", folder / "e.safetensors"] if "train" in arguments else []
        outcome = command.run(*arguments, *more)
        assert (outcome.code, outcome.err.rstrip().endswith(message)) == (130, True), outcome


class TestQueries:
    """Everything that can be looked for, and how it is said."""

    def test_photos_ids_paths_and_codes(
        self, url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        photo = folder / NAMES[2]
        by_photo = answers(photo)[0]
        assert by_photo["query"] == str(photo)
        assert by_photo["hits"][0] | {"image_id": 0} == {
            "rank": 1,
            "image_id": 0,
            "path": str(photo),
            "label": "hats",
            "distance": 0,
            "feature_distance": None,
        }
        assert (by_photo["exact"], len(by_photo["hits"])) == (True, 8)
        image_id = by_photo["hits"][0]["image_id"]
        code = retrieval_db.query_photo(photo, encoders_of_photos.create("phash64")).words
        monkeypatch.chdir(folder / "hats")
        for query in (
            ["--id", image_id],
            ["--path", photo],
            ["--path", "2.png"],
            ["--path", "../hats/2.png"],
            ["--code", "".join(f"{word:04x}" for word in code)],
            ["--code", ",".join(map(str, code))],
            ["-e", "phash64", "2.png"],
        ):
            assert answers(*query)[0]["hits"] == by_photo["hits"], query

    def test_folders_lists_and_files_of_codes(
        self, url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        titles = [str(folder / name) for name in NAMES]
        found = answers(folder, "-k", "1")
        assert [answer["query"] for answer in found] == titles
        assert [answer["hits"][0]["path"] for answer in found] == titles
        (folder / "list.txt").write_text("\n".join(NAMES[:3]))
        listed = answers("--list", folder / "list.txt", "-k", "1")
        assert [answer["hits"] for answer in listed] == [answer["hits"] for answer in found[:3]]
        monkeypatch.chdir(folder)
        listed = answers("--list", "-", "-k", "1", stdin="\n".join(NAMES[:3]).encode())
        assert [answer["hits"] for answer in listed] == [answer["hits"] for answer in found[:3]]
        (folder / "list.txt").write_text("\0".join(NAMES[:3]) + "\0")
        listed = answers("--list", "list.txt", "-k", "1")
        assert [answer["hits"] for answer in listed] == [answer["hits"] for answer in found[:3]]
        command.succeed("encode", folder, "-e", "phash64", "-o", tmp_path / "q.npz")
        coded = answers("--codes", tmp_path / "q.npz", "-k", "1")
        assert [answer["hits"] for answer in coded] == [answer["hits"] for answer in found]

    def test_codes_that_were_loaded_under_relative_paths(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "uniform", 9, 64)
        found = answers("--path", "example/7.jpg", "-k", "1", "-d", database_url)
        assert found[0]["hits"][0]["path"] == "example/7.jpg"

    def test_a_path_under_a_root(
        self, database_url: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
        command.succeed("index", folder, "--root", folder, "-e", "phash64")
        (tmp_path / "link").symlink_to(folder)
        found = answers("--path", "hats/2.png")
        for path in (folder / "hats/2.png", tmp_path / "link/hats/2.png"):
            assert answers("--path", path)[0]["hits"] == found[0]["hits"]
        outcome = command.run("search", "--path", tmp_path / "hats/2.png")
        assert outcome.code == 1
        assert f"Paths are stored relative to {folder}" in outcome.err

    def test_a_path_that_is_not_utf8(self, url: str) -> None:
        outcome = command.run("search", "--path", os.fsdecode(b"r\xff/0.png"))
        assert outcome.code == 1
        assert "No image of the encoder 'phash64' has the path 'r\\udcff/0.png'" in outcome.err

    def test_unreadable_photos_are_passed_over(self, url: str, folder: Path) -> None:
        (folder / "hats/broken.png").touch()
        outcome = command.succeed("search", folder / "hats", "--jsonl", "-k", "1")
        assert len(outcome.out.splitlines()) == 4
        assert f"Skipped {folder}/hats/broken.png: not an image" in outcome.err
        outcome = command.run("search", folder / "hats/broken.png")
        assert (outcome.code, outcome.out) == (1, "")
        assert "None of the query photos" in outcome.err

    def test_filters(self, url: str, folder: Path) -> None:
        with example.connect(url) as connection:
            connection.execute(
                "UPDATE images SET metadata = jsonb_build_object('odd', id % 2 = 1, 'in', label)"
            )
        photo = folder / NAMES[0]
        hits = answers(photo, "--label", "shoes")[0]["hits"]
        assert [hit["label"] for hit in hits] == ["shoes"] * 4
        assert len(answers(photo, "--label", "shoes", "--label", "hats")[0]["hits"]) == 8
        assert len(answers(photo, "--metadata", '{"odd": true}')[0]["hits"]) == 4
        assert len(answers(photo, "--metadata", '{"odd": true, "in": "hats"}')[0]["hits"]) == 2
        assert answers(photo, "--label", "coats")[0]["hits"] == []
        near = answers(photo, "--radius", "20")[0]["hits"]
        assert all(hit["distance"] <= 20 for hit in near)
        assert len(answers(photo, "--radius", "64")[0]["hits"]) == 8
        assert len(answers(photo, "--radius", "64", "-k", "3")[0]["hits"]) == 3

    def test_codes_of_another_encoder(self, url: str, folder: Path, tmp_path: Path) -> None:
        command.succeed("encode", folder, "-e", "phash256", "-o", tmp_path / "q.npz")
        outcome = command.run("search", "--codes", tmp_path / "q.npz")
        assert outcome.code == 1
        assert "There is no encoder 'phash256'" in outcome.err
        outcome = command.run("search", "--codes", tmp_path / "q.npz", "-e", "phash64")
        assert outcome.code == 1
        assert "64 bits, not 256" in outcome.err


class TestFormats:
    """One answer for people, three for programs, and files."""

    def test_all_say_the_same(self, url: str, folder: Path, tmp_path: Path) -> None:
        query = ["search", folder / NAMES[0], folder / NAMES[5], "-k", "3"]
        whole = json.loads(command.succeed(*query, "--json").out)
        lines = [json.loads(line) for line in command.succeed(*query, "--jsonl").out.splitlines()]
        assert [line["hits"] for line in lines] == [answer["hits"] for answer in whole]
        text = command.succeed(*query, "--csv").out
        rows = list(csv.DictReader(io.StringIO(text)))
        assert "\r" not in text
        assert [(row["query"], row["path"], int(row["distance"])) for row in rows] == [
            (answer["query"], hit["path"], hit["distance"])
            for answer in whole
            for hit in answer["hits"]
        ]
        for style in ("--json", "--jsonl", "--csv"):
            outcome = command.succeed(*query, style, "-o", tmp_path / "out")
            assert outcome.out == ""
            written = (tmp_path / "out").read_text()
            assert re.sub(r"[\d.]+", "", written) == re.sub(
                r"[\d.]+", "", command.succeed(*query, style).out
            )

    def test_a_table_is_not_folded(self, database_url: str, tmp_path: Path) -> None:
        name = "a folder with a long name " * 6
        folder = command.photos(tmp_path / name / name, ["a photo.png"])
        command.succeed("index", folder, "-e", "phash64", "-d", database_url)
        outcome = command.succeed("search", folder / "a photo.png", "-d", database_url)
        assert outcome.out.count(f"{folder}/a photo.png") == 2
        assert "1 image of phash64, coarse stage: by Hamming distance, exact, " in outcome.out
        outcome = command.succeed("info", "-d", database_url)
        assert all(len(line) < 200 for line in outcome.out.splitlines())

    def test_the_source(self, shared: tuple[str, Path]) -> None:
        url, folder = shared
        asked = (folder / "hats", "--id", 3, "--label", "shoes", "-k", 3, "-d", url)
        found = {source: answers(*asked, "--source", source) for source in ("database", "memory")}
        for source, given in found.items():
            assert {answer["source"] for answer in given} == {source}
        hits = [[answer["hits"] for answer in given] for given in found.values()]
        assert len(hits[0]) == 5
        assert hits[0] == hits[1]
        outcome = command.succeed("search", "--id", 3, "--source", "memory", "--explain", "-d", url)
        assert "plan scan in memory" in outcome.out
        assert outcome.err.count("Read 8 codes of phash64 into memory; ") == 1
        refused = command.run("search", "--id", 3, "--source", "memory", "--max-ms", 1, "-d", url)
        assert refused.code == 2
        assert "every code is compared" in refused.err

    def test_an_explanation(self, url: str) -> None:
        out = command.succeed("search", "--id", 1, "--explain").out
        assert "plan " in out
        assert "guaranteed radius" in out

    def test_page_and_sheet(self, url: str, folder: Path, tmp_path: Path) -> None:
        page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
        outcome = command.succeed("search", folder / NAMES[0], "--html", page, "--sheet", sheet)
        assert "search_codes(" in page.read_text()
        assert sheet.read_bytes().startswith(b"\x89PNG")
        assert f"Wrote {page}" in outcome.err

    def test_a_stored_image_is_shown(self, shared: tuple[str, Path], tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        command.succeed("search", "--id", 1, "-k", 1, "--html", page, "-d", shared[0])
        assert page.read_text().count("<img") == 2

    def test_index_and_load_reports(self, url: str, folder: Path, tmp_path: Path) -> None:
        outcome = command.succeed("index", folder, "-e", "phash64", "--json")
        report = json.loads(outcome.out)
        profile = report.pop("profile")
        assert [profile[stage]["images"] for stage in ("read", "decode", "write")] == [8, 0, 0]
        assert report | {"seconds": 0} == {
            "encoder": "phash64", "found": 8, "encoded": 0, "unchanged": 8, "skipped": [],
            "inserted": 0, "updated": 0, "repeated": 0, "relabelled": 0, "gone": [], "pruned": 0,
            "moved_from": None, "seconds": 0,
        }  # fmt: skip
        outcome = command.succeed("index", folder, "-e", "phash64")
        assert outcome.out.startswith("phash64: 8 image files, 0 new, 0 changed, 8 unchanged")
        assert "Database: " in outcome.err
        assert "Indexing 8 image files with phash64 (64 bits)." in outcome.err
        command.succeed("encode", folder, "-e", "phash64", "-o", tmp_path / "q.npz")
        outcome = command.succeed("load", tmp_path / "q.npz", "--json")
        assert json.loads(outcome.out) | {"seconds": 0} == {
            "encoder": "phash64", "inserted": 0, "updated": 8, "seconds": 0, "repeated": 0,
        }  # fmt: skip

    def test_info_and_status(self, url: str) -> None:
        found = json.loads(command.succeed("info", "--json").out)
        assert found["encoders"] == json.loads(command.succeed("encoders", "list", "--json").out)
        assert (found["encoders"][0]["name"], found["encoders"][0]["images"]) == ("phash64", 8)
        out = command.succeed("info").out
        assert "RETRIEVAL_DB_URL" in out
        assert "images" in out
        status = json.loads(command.succeed("db", "status", "--json").out)
        assert status["running"] is True
        assert "running" in command.succeed("db", "status").out

    def test_the_url_is_for_psql(self, url: str, cluster: postgres.Cluster) -> None:
        sqlalchemy = url.replace("postgresql://", "postgresql+psycopg://")
        printed = command.succeed("db", "url", "-d", sqlalchemy).out.strip()
        done = subprocess.run(
            [cluster.installation.program("psql"), printed, "-XAtc", "SELECT count(*) FROM images"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "8\n"


class TestEncoders:
    """Stored encoders are listed, moved between databases, refitted and removed."""

    def test_life_of_one(
        self, url: str, folder: Path, tmp_path: Path, cluster: postgres.Cluster
    ) -> None:
        listed = json.loads(command.succeed("encoders", "list", "--json").out)
        assert [(one["name"], one["bits"], one["images"]) for one in listed] == [("phash64", 64, 8)]
        assert "phash64" in command.succeed("encoders", "list").out
        shown = json.loads(command.succeed("encoders", "show", "phash64").out)
        assert shown["config"]["kind"] == "phash"
        file = tmp_path / "phash.safetensors"
        command.succeed("encoders", "export", "phash64", "-o", file)
        for _ in range(2):
            command.succeed("encoders", "add", file, "--name", "mine")
        command.succeed("encoders", "add", file)
        outcome = command.succeed("index", folder, "-e", "mine")
        assert "Using the stored encoder 'mine'" in outcome.err
        outcome = command.run("search", "--code", "00" * 8)
        assert "name one of: mine, phash64" in outcome.err
        outcome = command.run("encoders", "remove", "mine", stdin=b"n\n")
        assert outcome.code == 1
        outcome = command.succeed("encoders", "remove", "mine", stdin=b"y\n")
        assert "the codes of 8 images" in outcome.err
        with retrieval_db.connect(url) as db:
            assert [stored.name for stored in db.encoders()] == ["phash64"]

    def test_another_encoder_of_the_same_name(self, url: str, folder: Path, tmp_path: Path) -> None:
        file = tmp_path / "phash.safetensors"
        encoders_of_photos.save(encoders_of_photos.create("phash256"), file)
        outcome = command.run("encoders", "add", file, "--name", "phash64")
        assert outcome.code == 1
        assert "64 bits, not 256" in outcome.err
        outcome = command.run("index", folder, "-e", file, "--name", "phash64")
        assert outcome.code == 1

    def test_options_that_a_stored_encoder_contradicts(
        self, url: str, folder: Path, tmp_path: Path
    ) -> None:
        command.succeed("index", folder, "-e", "phash256", "--name", "mine")
        outcome = command.run("index", folder, "-e", "mine", "--bits", "64")
        assert outcome.code == 2
        assert "has --bits 256, not 64" in outcome.err
        outcome = command.run("index", folder, "-e", "phash", "--backbone", "resnet18")
        assert outcome.code == 2
        assert "has no --backbone" in outcome.err
        outcome = command.run("index", folder, "-e", "phash", "--flip")
        assert outcome.code == 2
        assert "has no --flip" in outcome.err
        outcome = command.run("index", folder, "-e", "phash64", "--name", "mine")
        assert outcome.code == 2
        assert "has --bits 256, not 64" in outcome.err
        outcome = command.run("index", folder, "-e", "lsh", "--name", "mine")
        assert outcome.code == 2
        assert "has method phash, not lsh" in outcome.err
        file = tmp_path / "phash.safetensors"
        encoders_of_photos.save(encoders_of_photos.create("phash256"), file)
        outcome = command.run("index", folder, "-e", "phash", "--decoder", "torchcodec")
        assert outcome.code == 2
        assert "has no --decoder" in outcome.err
        for option in (
            ["--flip"],
            ["--decoder", "pillow"],
            ["--input-size", "32"],
            ["--backbone", "resnet18"],
            ["--precision", "bf16"],
        ):
            outcome = command.run("index", folder, "-e", file, *option)
            assert outcome.code == 2
            assert "brings its own network" in outcome.err
        outcome = command.succeed("index", folder, "-e", "phash")
        assert "Using the stored encoder 'phash64'" in outcome.err

    def test_a_head_is_fitted_once(
        self, database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("torch", reason="the extra `encoder` is not installed")
        from safetensors.torch import save_file
        from torchvision.models import mobilenet_v2

        monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
        monkeypatch.setenv("RETRIEVAL_DB_HOME", str(tmp_path / "home"))
        weights = tmp_path / "weights.safetensors"
        save_file(mobilenet_v2().state_dict(), weights)
        folder = command.photos(tmp_path / "photos", [f"{number}.png" for number in range(24)])
        network = ["--weights", weights, "--input-size", "32", "--mean", "0.5", "--std", "0.5"]
        outcome = command.succeed("index", folder, "-e", "itq16", *network)
        assert "24 new" in outcome.out
        command.succeed("index", folder, "-e", "itq16", *network)
        for option, there in (("--input-size", 32), ("--std", (0.5, 0.5, 0.5))):
            outcome = command.run("index", folder, "-e", "itq16", *network, option, "64")
            assert outcome.code == 2
            assert f"has {option} {there}, not" in outcome.err
        for precision in ("bf16", "bfloat16"):
            outcome = command.run(
                "index", folder, "-e", "itq16", *network, "--precision", precision
            )
            assert outcome.code == 2
            assert "has --precision float32, not bfloat16" in outcome.err
        outcome = command.run("index", folder, "-e", "cifar10-48", "--name", "itq16")
        assert outcome.code == 1
        assert "makes codes of 16 bits, not 48" in outcome.err
        before = stored(database_url)
        more = command.photos(tmp_path / "more", ["x.png"])
        outcome = command.succeed("index", folder, more, "-e", "itq16", "--weights", weights)
        assert "Using the stored encoder 'itq16'" in outcome.err
        assert "1 new" in outcome.out
        assert stored(database_url).fingerprint == before.fingerprint
        found = answers(folder / "3.png", "--weights", weights)[0]
        assert (found["stage"], found["hits"][0]["path"]) == ("fine", str(folder / "3.png"))
        outcome = command.run("index", folder, "-e", "itq16", "--backbone", "resnet18")
        assert outcome.code == 2
        with example.connect(database_url) as connection:
            connection.execute("UPDATE images SET label = 'l' || id WHERE id % 2 = 0")
            connection.execute("UPDATE images SET metadata = jsonb_build_object('n', id)")
        known = told(database_url, "itq16")
        outcome = command.succeed("encoders", "refit", "itq16", "--weights", weights)
        assert "itq16-2: 25 image files, 25 new" in outcome.out
        assert told(database_url, "itq16-2") == known
        (more / "x.png").unlink()
        outcome = command.succeed("encoders", "refit", "itq16", "--weights", weights)
        assert "1 of 25 photos are not here; they are left out" in outcome.err
        assert "itq16-3: 24 image files, 24 new" in outcome.out
        folder.rename(tmp_path / "elsewhere")
        outcome = command.run("encoders", "refit", "itq16", "--weights", weights)
        assert outcome.code == 1
        assert "None of the 25 photos of 'itq16' can be found here" in outcome.err
        (tmp_path / "elsewhere").rename(folder)
        command.succeed("encoders", "remove", "itq16", "--yes")
        command.succeed("encode", folder, "-e", "itq16-2", *network[:2], "-o", tmp_path / "q.npz")
        assert retrieval_db.read_npz(tmp_path / "q.npz").features is not None


def told(url: str, encoder: str) -> list[Any]:
    """What is stored of the images beside their codes."""
    with example.connect(url) as connection:
        return connection.execute(
            "SELECT path, label, metadata FROM images JOIN encoders ON encoder_id = encoders.id "
            "WHERE name = %s ORDER BY path",
            [encoder],
        ).fetchall()


def stored(url: str) -> retrieval_db.StoredEncoder:
    with retrieval_db.connect(url) as db:
        return db.encoder()


def imported(statement: str) -> set[str]:
    """The modules that are loaded after a statement, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import retrieval_db",
        "import retrieval_db.cli",
        "import retrieval_db.encoder",
    ],
)
def test_what_takes_long_is_imported_late(statement: str) -> None:
    late = {"torch", "torchcodec", "torchvision", "safetensors", "sklearn", "scipy"}
    late |= {"alembic", "sqlalchemy", "fastapi", "starlette", "imagehash", "matplotlib"}
    assert not late & imported(statement)
