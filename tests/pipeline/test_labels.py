"""Labels of an index run, from folders or from a list."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import retrieval_db
from retrieval_db.photos import label_reader
from tests import command
from tests.example import rows
from tests.pipeline.indexed import index


class TestLabels:
    """From folders or from a list; an index run brings them up to date."""

    def test_folders(self, database_url: str, folder: Path) -> None:
        index(database_url, folder, labels="folder")
        assert [label for _, label in rows(database_url)] == [
            "photos", "photos", "hats", "shoes", "shoes",
        ]  # fmt: skip

    def test_a_list(self, database_url: str, folder: Path) -> None:
        file = folder / "labels.csv"
        file.write_text(f'\ufeffPath, Label\na.jpg,first\n\n"{folder}/b.png","a, b"\n')
        index(database_url, folder, labels=label_reader(str(file)))
        labels = {Path(path).name: label for path, label in rows(database_url)[:2]}
        assert labels == {"a.jpg": "first", "b.png": "a, b"}
        assert {label for _, label in rows(database_url)[2:]} == {None}

    def test_labels_change_without_encoding(
        self, database_url: str, folder: Path, tmp_path: Path
    ) -> None:
        index(database_url, folder)
        report = index(database_url, folder, labels=label_reader("folder"))
        assert (report.encoded, report.relabelled) == (0, 5)
        assert index(database_url, folder, labels=label_reader("folder")).relabelled == 0
        (tmp_path / "some.csv").write_text("photos/a.jpg,renamed\n")
        report = index(database_url, folder, labels=label_reader(str(tmp_path / "some.csv")))
        assert report.relabelled == 1
        labels = dict(rows(database_url))
        assert labels[str(folder / "a.jpg")] == "renamed"
        assert labels[str(folder / "b.png")] == "photos"
        assert index(database_url, folder).relabelled == 0
        assert dict(rows(database_url)) == labels

    def test_an_empty_label_is_none(self, database_url: str, folder: Path) -> None:
        file = folder / "labels.csv"
        file.write_text("a.jpg,first\nb.png,\n")
        for _ in range(2):
            report = index(database_url, folder, labels=label_reader(str(file)))
            assert report.relabelled == 0
            assert [label for _, label in rows(database_url)] == ["first", None, None, None, None]
        # Neither does it take away the label that was given before.
        file.write_text("a.jpg, \n")
        assert index(database_url, folder, labels=label_reader(str(file))).relabelled == 0
        assert index(database_url, folder, labels=lambda path: "").relabelled == 0
        assert rows(database_url)[0][1] == "first"

    def test_a_list_of_other_images(self, database_url: str, folder: Path, tmp_path: Path) -> None:
        """Each command tells how it reads the paths, if that gives no image a label."""
        file, coded = tmp_path / "some.csv", tmp_path / "coded.npz"
        arguments = ["--labels", file, "-e", "phash64"]
        for line, said in (("a.jpg,first\n", True), (f"{folder}/a.jpg,first\n", False)):
            file.write_text(line)
            for name, *more in (
                ("index", folder, "-d", database_url),
                ("encode", folder, "-o", coded),
            ):
                told = f"{file} labels none of these images: its relative paths start from"
                assert (told in command.succeed(name, *more, *arguments).err) == said
            told = f"{file} labels none of these images: it names paths as they are stored."
            assert (told in command.succeed("load", coded, "--dry-run", *arguments).err) == said

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            (b"a.jpg\n", "line 1: a path and a label, not 1 columns"),
            (b"a.jpg,x\nb.png,y,z\n", "line 2: a path and a label, not 3 columns"),
            (b"caf\xe9.jpg,x\n", "labels.csv is not UTF-8; save it as UTF-8"),
            ("a.jpg,x\n".encode("utf-16"), "labels.csv is not UTF-8; save it as UTF-8"),
            (None, "labels.csv: .*No such file"),
        ],
    )
    def test_bad_lists_are_refused_before_anything_is_done(
        self, database_url: str, folder: Path, content: bytes | None, message: str
    ) -> None:
        if content is not None:
            (folder / "labels.csv").write_bytes(content)
        arguments = ["--labels", folder / "labels.csv", "-e", "phash64", "-d", database_url]
        outcome = command.run("index", folder, *arguments)
        assert outcome.code == 1
        assert re.search(message, outcome.err), outcome.err
        assert rows(database_url) == []
        with retrieval_db.connect(database_url) as db:
            assert db.encoders() == []
