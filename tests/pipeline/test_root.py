"""Paths relative to a folder, which may move."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.errors import ImageError, UsageError
from retrieval_db.pipeline.encoding import stored_path
from tests import command
from tests.example import rows
from tests.pipeline.indexed import NAMES, index


class TestRoot:
    """Paths relative to a folder survive its move."""

    def test_paths_are_relative(self, database_url: str, folder: Path) -> None:
        index(database_url, folder, root=folder)
        assert [path for path, _ in rows(database_url)] == sorted(NAMES)
        assert index(database_url, folder).unchanged == 5
        assert index(database_url, folder / "shoes", root=folder).unchanged == 2

    def test_through_a_link(self, database_url: str, folder: Path, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to(folder)
        index(database_url, tmp_path / "link", root=tmp_path / "link")
        assert [path for path, _ in rows(database_url)] == sorted(NAMES)
        (folder / "a.jpg").unlink()
        report = index(database_url, tmp_path / "link", root=folder, prune=True)
        assert (report.unchanged, report.gone) == (4, ["a.jpg"])

    def test_a_linked_photo_keeps_its_name(
        self, database_url: str, folder: Path, tmp_path: Path
    ) -> None:
        command.photos(tmp_path / "other", ["x.png"])
        (folder / "linked.png").symlink_to(tmp_path / "other/x.png")
        index(database_url, folder, root=folder)
        assert ("linked.png", None) in rows(database_url)

    def test_files_outside_are_skipped(
        self, database_url: str, folder: Path, tmp_path: Path
    ) -> None:
        command.photos(tmp_path / "other", ["x.png"])
        report = index(database_url, folder, tmp_path / "other", root=folder)
        assert report.inserted == 5
        assert report.skipped == [(str(tmp_path / "other/x.png"), f"not under the root {folder}")]

    def test_moved_photos(self, database_url: str, folder: Path, tmp_path: Path) -> None:
        index(database_url, folder, root=folder)
        before = rows(database_url, "id, path")
        folder.rename(tmp_path / "elsewhere")
        outcome = command.succeed(
            "index", tmp_path / "elsewhere", "--root", tmp_path / "elsewhere",
            "-e", "phash64", "-d", database_url,
        )  # fmt: skip
        assert f"The photos have been moved: the root was {folder}." in outcome.err
        assert "5 unchanged" in outcome.out
        assert rows(database_url, "id, path") == before
        with retrieval_db.connect(database_url) as db:
            assert db.encoder().root == str(tmp_path / "elsewhere")

    def test_another_root_is_refused(self, database_url: str, folder: Path, tmp_path: Path) -> None:
        index(database_url, folder, root=folder)
        with pytest.raises(UsageError, match=f"relative to {folder}, not relative to {tmp_path}"):
            index(database_url, folder, root=tmp_path)

    def test_absolute_paths_stay_absolute(self, database_url: str, folder: Path) -> None:
        index(database_url, folder)
        with pytest.raises(UsageError, match="stored absolute, not relative"):
            index(database_url, folder, root=folder)

    def test_an_encoder_that_has_no_images_takes_any_root(
        self, database_url: str, folder: Path
    ) -> None:
        with retrieval_db.connect(database_url) as db:
            db.add_encoder(encoders_of_photos.create("phash64"))
        assert index(database_url, folder, root=folder).inserted == 5
        assert rows(database_url)[0][0] == "a.jpg"

    def test_a_name_that_is_not_utf8(self) -> None:
        with pytest.raises(ImageError, match="not UTF-8"):
            stored_path(Path(os.fsdecode(b"caf\xe9.jpg")), None)

    def test_a_root_whose_name_is_not_utf8(self, database_url: str, tmp_path: Path) -> None:
        odd = command.photos(Path(os.fsdecode(os.fsencode(tmp_path) + b"/r\xff")), ["0.png"])
        arguments = [odd, "--root", odd, "-e", "phash64"]
        for outcome in (
            command.run("index", *arguments, "-d", database_url),
            command.run("encode", *arguments, "-o", tmp_path / "codes.npz"),
        ):
            assert outcome.code == 2
            assert "r\\xff cannot be stored as the root: its name is not UTF-8" in outcome.err
        with retrieval_db.connect(database_url) as db:
            assert db.encoders() == []
