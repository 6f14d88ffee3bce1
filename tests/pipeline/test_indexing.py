"""Folders of photos into the table: what is new, changed, gone or unreadable."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.errors import UsageError
from retrieval_db.photos import Sources
from tests import command, example
from tests.example import rows
from tests.pipeline.indexed import NAMES, index


class TestWhatIsThere:
    """Only what is new or has changed is encoded."""

    def test_new_unchanged_changed_gone(self, database_url: str, folder: Path) -> None:
        first = index(database_url, folder)
        assert (first.found, first.encoded, first.inserted, first.updated) == (5, 5, 5, 0)
        assert [path for path, _ in rows(database_url)] == sorted(
            str(folder / name) for name in NAMES
        )
        again = index(database_url, folder)
        assert (again.encoded, again.unchanged, again.inserted) == (0, 5, 0)

        command.photo(77).save(folder / "b.png")
        (folder / "a.jpg").unlink()
        shutil.copy(folder / "shoes/1.png", folder / "new.png")
        third = index(database_url, folder)
        assert (third.inserted, third.updated, third.unchanged) == (1, 1, 3)
        assert (third.gone, third.pruned) == ([str(folder / "a.jpg")], 0)
        assert len(rows(database_url)) == 6
        fourth = index(database_url, folder, prune=True)
        assert (fourth.unchanged, fourth.pruned) == (5, 1)
        assert len(rows(database_url)) == 5
        query = retrieval_db.query_photo(folder / "b.png", encoders_of_photos.create("phash64"))
        with retrieval_db.connect(database_url) as db:
            assert db.search(query, k=1).hits[0].path == str(folder / "b.png")

    def test_gone_means_under_the_folders_that_are_indexed(
        self, database_url: str, folder: Path
    ) -> None:
        index(database_url, folder)
        (folder / "a.jpg").unlink()
        (folder / "shoes/1.png").unlink()
        report = index(database_url, folder / "shoes", prune=True)
        assert report.gone == [str(folder / "shoes/1.png")]
        assert len(rows(database_url)) == 4
        command.photos(folder.with_name("photos 2"), ["a.png"])
        assert index(database_url, folder.with_name("photos 2"), prune=True).gone == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
    def test_what_lies_behind_a_closed_door_is_not_gone(
        self, database_url: str, folder: Path
    ) -> None:
        index(database_url, folder)
        (folder / "shoes").chmod(0)
        report = index(database_url, folder, prune=True)
        (folder / "shoes").chmod(0o755)
        assert (report.gone, report.pruned) == ([], 0)
        assert report.skipped == [(str(folder / "shoes"), "Permission denied")]

    def test_from_where_one_stands(
        self, database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        index(database_url, folder)
        monkeypatch.chdir(folder)
        report = index(database_url, "shoes/..", ".", folder, "a.jpg")
        assert (report.found, report.unchanged, report.gone) == (5, 5, [])

    def test_a_row_that_was_loaded_without_a_hash_is_encoded(
        self, database_url: str, folder: Path
    ) -> None:
        index(database_url, folder)
        with example.connect(database_url) as connection:
            connection.execute("UPDATE images SET content_sha256 = NULL WHERE path LIKE '%jpg'")
        assert index(database_url, folder).updated == 1

    def test_unreadable_files_are_listed_and_the_run_goes_on(
        self, database_url: str, folder: Path
    ) -> None:
        (folder / "broken.jpg").write_bytes((folder / "a.jpg").read_bytes()[:300])
        (folder / "empty.png").touch()
        (folder / "link.png").symlink_to("nowhere")
        (folder / "no: image.png").write_text("text")
        (Path(os.fsdecode(os.fsencode(folder) + b"/caf\xe9.png"))).write_bytes(
            (folder / "b.png").read_bytes()
        )
        deep = folder.joinpath(*["d" * 250] * 11)
        deep.mkdir(parents=True)
        shutil.copy(folder / "b.png", deep)
        report = index(database_url, folder)
        assert report.inserted == 5
        stored = len(str(deep / "b.png"))
        reasons = {Path(path).name: reason for path, reason in report.skipped}
        assert reasons.pop("broken.jpg").startswith("broken image (")
        assert reasons == {
            "b.png": f"its name has {stored:,} bytes, more than 2,600; "
            "rename it to have it indexed",
            "caf\\xe9.png": "its name is not UTF-8; rename it to have it indexed",
            "empty.png": "not an image",
            "link.png": "No such file or directory",
            "no: image.png": "not an image",
        }

    def test_an_image_that_the_encoder_cannot_take_is_skipped(
        self, database_url: str, folder: Path
    ) -> None:
        class Picky:
            def __getattr__(self, name: str) -> Any:
                return getattr(encoders_of_photos.create("phash64"), name)

            def prepare(self, image: Image.Image) -> Any:
                if image.size == (1, 900):
                    raise ZeroDivisionError("too thin")
                return encoders_of_photos.create("phash64").prepare(image)

        Image.new("RGB", (1, 900)).save(folder / "thin.png")
        with retrieval_db.connect(database_url) as db:
            report = db.index(folder, encoder=Picky())
        assert report.skipped == [(str(folder / "thin.png"), "cannot be prepared (too thin)")]
        assert report.inserted == 5

    def test_nothing_to_index(self, database_url: str, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no image files"):
            index(database_url, tmp_path)
        with pytest.raises(UsageError, match="no file or folder"):
            index(database_url, tmp_path / "nowhere")

    def test_all_unreadable(self, database_url: str, tmp_path: Path) -> None:
        for name in ("a.png", "b.png"):
            (tmp_path / name).touch()
        report = index(database_url, tmp_path)
        assert (report.found, len(report.skipped), report.inserted) == (2, 2, 0)
        outcome = command.run("index", tmp_path, "-e", "phash64", "-d", database_url)
        assert outcome.code == 1
        assert "2 files skipped:" in outcome.err
        assert "None of the files is a readable image." in outcome.err

    def test_a_file_that_is_named_twice(self, database_url: str, folder: Path) -> None:
        names = folder.parent / "list"
        names.write_text("".join(f"{path}\n" for path in folder.rglob("*.*")))
        with retrieval_db.connect(database_url) as db:
            found = Sources([folder], lists=[names])
            report = db.index(found, encoder=encoders_of_photos.create("phash64"))
        assert report.found == 2 * report.inserted == 2 * report.repeated

    def test_features_are_written_and_replaced(self, database_url: str, folder: Path) -> None:
        encoder = Featured()
        with retrieval_db.connect(database_url) as db:
            db.index(folder, encoder=encoder)
            command.photo(78).save(folder / "b.png")
            assert db.index(folder, encoder=encoder).updated == 1
            count = db.connection.execute("SELECT count(*) FROM image_features").fetchone()
            assert count == (5,)
            query = retrieval_db.query_photo(folder / "b.png", encoder)
            hit = db.search(query, k=1, stage="fine").hits[0]
            assert hit.path == str(folder / "b.png")
            assert hit.feature_distance == pytest.approx(0, abs=1e-3)

    def test_features_that_are_missing_are_filled_in(self, database_url: str, folder: Path) -> None:
        with retrieval_db.connect(database_url) as db:
            first = db.index(folder, encoder=Featured(), features=False)
            again = db.index(folder, encoder=Featured(), features=False)
            assert (again.updated, again.unchanged) == (0, first.inserted)
            filled = db.index(folder, encoder=Featured())
            assert (filled.inserted, filled.updated) == (0, first.inserted)
            assert db.index(folder, encoder=Featured()).unchanged == first.inserted
            count = db.connection.execute("SELECT count(*) FROM image_features").fetchone()
        assert count == (first.inserted,)


class Featured:
    """A perceptual hash with features, so that the fine stage needs no network."""

    def __init__(self) -> None:
        self.hash = encoders_of_photos.create("phash64")
        self.name, self.bits, self.feature_dim = "featured", 64, 16
        self.config, self.fingerprint, self.artifact = {"kind": "test"}, "featured", None

    def prepare(self, image: Image.Image) -> Any:
        return np.asarray(image.resize((16, 16)))

    def encode(self, batch: Any) -> tuple[Any, Any]:
        features = batch.mean(axis=(2, 3)).astype(np.float32)
        outputs = np.stack([self.hash.prepare(Image.fromarray(image)) for image in batch])
        return features, np.where(outputs, np.float32(1), np.float32(-1))
