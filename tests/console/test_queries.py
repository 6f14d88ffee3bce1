"""What `search` can be asked for, and how it is said."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from tests import command, example
from tests.command import answers
from tests.console.conftest import NAMES


class TestQueries:
    """Everything that can be looked for, and how it is said."""

    def test_photos_ids_paths_and_codes(
        self, url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
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
