"""How a command ends: its exit code, and its one message on stderr."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests import command, example


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
            (2, ["index", ""], "An argument is empty"),
            (2, ["index", ".", "-e", "phash64", "--root", ""], "An argument is empty"),
            (2, ["index", ".", "-e", "phash64", "--root="], "An argument is empty"),
            (2, ["train", "--data", "", "-o", "x.safetensors"], "An argument is empty"),
            (2, ["encoders", "add", ""], "An argument is empty"),
            (2, ["index", "--", "--odd="], "no file or folder"),
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
    def test_wrong_urls(self, url: str, message: str) -> None:
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
