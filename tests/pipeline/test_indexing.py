"""Folders of photos into the table: what is new, changed, gone, unreadable or interrupted."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from PIL import Image

import retrieval_db
from retrieval_db import CodeSet, read_npz
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.errors import ImageError, UsageError
from retrieval_db.interchange.npz_writer import NpzWriter
from retrieval_db.photos import Sources, label_reader
from retrieval_db.pipeline.background import IN_FLIGHT
from retrieval_db.pipeline.encoding import stored_path
from tests import command, example

NAMES = ("b.png", "a.jpg", "shoes/1.png", "shoes/2.png", "hats/1.png")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return command.photos(tmp_path / "photos", NAMES)


def index(url: str, *sources: Path | str, **options: Any) -> retrieval_db.IndexReport:
    with retrieval_db.connect(url) as db:
        return db.index(*sources, encoder=encoders_of_photos.create("phash64"), **options)


def rows(url: str, columns: str = "path, label") -> list[Any]:
    with example.connect(url) as connection:
        return connection.execute(
            f'SELECT {columns} FROM images ORDER BY path COLLATE "C"'
        ).fetchall()


EVERYTHING = "path, label, content_sha256, code_1, code_2, code_3, code_4"


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


class TestLabels:
    """From folders or from a list; an index run brings them up to date."""

    def test_folders(self, database_url: str, folder: Path) -> None:
        index(database_url, folder, labels=label_reader("folder"))
        assert [label for _, label in rows(database_url)] == [
            "photos", "photos", "hats", "shoes", "shoes",
        ]  # fmt: skip

    def test_a_list(self, database_url: str, folder: Path, tmp_path: Path) -> None:
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


class TestEncodeAndLoad:
    """`encode` and `load` together do what `index` does."""

    @pytest.mark.parametrize("root", [True, False])
    def test_the_same_rows(
        self, database_url: str, cluster: Any, folder: Path, tmp_path: Path, root: bool
    ) -> None:
        (folder / "broken.png").touch()
        options = ["-e", "phash64", "--labels", "folder", *(["--root", folder] if root else [])]
        codes = tmp_path / "codes.npz"
        outcome = command.succeed("encode", folder, "-o", codes, *options)
        assert "1 file skipped" in outcome.err
        assert "5 codes of 64 bits" in outcome.err
        command.succeed("load", codes, "-d", database_url)
        with cluster.database(cluster.template()) as other:
            command.succeed("index", folder, *options, "-d", other)
            assert rows(database_url, EVERYTHING) == rows(other, EVERYTHING)
            records = []
            for url in (database_url, other):
                with retrieval_db.connect(url) as db:
                    records.append(replace(db.encoder(), created_at=None))  # type: ignore[arg-type]
            assert records[0] == records[1]
        report = command.succeed("index", folder, *options, "-d", database_url, "--json")
        assert json.loads(report.out)["unchanged"] == 5

    @pytest.mark.parametrize(
        "config",
        [
            '{"backbone": "resnet50", "preprocess": "crop"}',
            '{"preprocess": {"scale": 2}}',
            None,
        ],
    )
    def test_codes_of_another_program(
        self, database_url: str, folder: Path, tmp_path: Path, config: str | None
    ) -> None:
        codes = tmp_path / "codes.npz"
        fields: dict[str, Any] = {"codes": np.zeros((2, 8), np.uint8), "bits": 64}
        if config is not None:
            fields["encoder_config"] = config
        np.savez(codes, paths=["a.png", "b.png"], **fields)
        command.succeed("load", codes, "-d", database_url, "--encoder", "example")
        outcome = command.run("index", folder, "-e", "example", "-d", database_url)
        assert outcome.code == 1
        assert "encoders add FILE" in outcome.err
        outcome = command.run(
            "index", folder, "-e", "lsh64", "--name", "example", "-d", database_url
        )
        assert outcome.code == 2
        assert "'example' has no method. Give" in outcome.err
        assert len(rows(database_url)) == 2

    def test_codes_are_written_as_they_come(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        written: list[int] = []
        write = NpzWriter.write

        def noting(self: NpzWriter, batch: CodeSet) -> None:
            written.append(len(batch))
            write(self, batch)

        monkeypatch.setattr(NpzWriter, "write", noting)
        folder = many_photos(tmp_path / "photos", 150)
        file = tmp_path / "codes.npz"
        command.succeed("encode", folder, "-e", "phash64", "-o", file)
        assert written == [64, 64, 22]
        items = read_npz(file)
        assert list(items.paths) == [str(folder / f"{number:04}.png") for number in range(150)]
        assert (items.labels, items.metadata, items.encoder) == (None, None, "phash64")

    def test_a_full_disk(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(self: NpzWriter, batch: CodeSet) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(NpzWriter, "write", full)
        file = tmp_path / "codes.npz"
        outcome = command.run("encode", folder, "-e", "phash64", "-o", file)
        assert outcome.code == 1
        assert f"Error: Cannot write {file}: No space left on device." in outcome.err
        assert not file.exists()

    def test_nothing_readable(self, tmp_path: Path) -> None:
        (tmp_path / "a.png").touch()
        outcome = command.run("encode", tmp_path, "-e", "phash64", "-o", tmp_path / "codes.npz")
        assert outcome.code == 1
        assert not (tmp_path / "codes.npz").exists()

    def test_where_nothing_can_be_written(self, folder: Path, tmp_path: Path) -> None:
        for place in (tmp_path / "no" / "codes.npz", tmp_path):
            outcome = command.run("encode", folder, "-e", "phash64", "-o", place)
            assert outcome.code == 2
            assert "Cannot write" in outcome.err
            assert "Encoding" not in outcome.err

    def test_photos_search_codes_whose_encoder_came_later(
        self, database_url: str, folder: Path, tmp_path: Path
    ) -> None:
        """Codes alone answer ids, paths and codes; a photo needs what made them."""
        codes = tmp_path / "codes.npz"
        command.succeed("encode", folder, "-e", "phash64", "-o", codes)
        items = read_npz(codes)
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, config=None, artifact=None, fingerprint=None, encoder="mine"))
            digits = db.connection.execute("SELECT id FROM images ORDER BY id").fetchall()
        photo = folder / "b.png"
        search = ["search", "-d", database_url, "--json", "-k", "1"]
        for query in (["--id", digits[0][0]], ["--path", photo], ["--codes", codes, "-e", "mine"]):
            found = json.loads(command.succeed(*search, *query).out)
            assert found[0]["hits"][0]["distance"] == 0
        outcome = command.run(*search, photo)
        assert outcome.code == 1
        assert "encoders add FILE" in outcome.err
        file = tmp_path / "phash.safetensors"
        encoders_of_photos.save(encoders_of_photos.create("phash64"), file)
        command.succeed("encoders", "add", file, "--name", "mine", "-d", database_url)
        found = json.loads(command.succeed(*search, photo).out)
        assert found[0]["hits"][0]["path"] == str(photo)


def many_photos(folder: Path, count: int) -> Path:
    """A folder of so many small photos, a hundred different ones."""
    command.photos(folder, [f"{n:04}.png" for n in range(100)])
    for number in range(100, count):
        os.link(folder / f"{number % 100:04}.png", folder / f"{number:04}.png")
    return folder


def stop_in_the_second_transaction(url: str, folder: Path) -> subprocess.Popen[bytes]:
    """An index run that has committed once and hangs in its next transaction."""
    with example.connect(url) as connection:
        connection.execute(
            """
            CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql
            AS 'BEGIN PERFORM pg_sleep(600); RETURN NEW; END';
            CREATE TRIGGER wait BEFORE INSERT ON images FOR EACH ROW
            WHEN (NEW.path LIKE '%2390.png') EXECUTE FUNCTION wait()
            """
        )
        process = command.start("index", folder, "-e", "phash64", "-d", url)
        while not sleeping(connection):
            assert process.poll() is None
            time.sleep(0.1)
    return process


def check_that_it_continues(url: str, cluster: Any, folder: Path, count: int) -> None:
    """At most what was in flight is missing, and the same command brings it."""
    stored = len(rows(url))
    assert 0 < stored < count
    assert count - stored <= IN_FLIGHT
    with example.connect(url) as connection:
        connection.execute("DROP TRIGGER IF EXISTS wait ON images; DROP FUNCTION IF EXISTS wait")
    arguments = ["index", folder, "-e", "phash64", "-d", url, "--json"]
    report = json.loads(command.succeed(*arguments).out)
    assert (report["unchanged"], report["inserted"]) == (stored, count - stored)
    with cluster.database(cluster.template()) as other:
        command.succeed("index", folder, "-e", "phash64", "-d", other)
        assert rows(url, EVERYTHING) == rows(other, EVERYTHING)


class TestInterruption:
    """At any point, in any way: whole transactions stay, and the same command continues."""

    COUNT = 2_400

    def test_ctrl_c(self, database_url: str, cluster: Any, tmp_path: Path) -> None:
        folder = many_photos(tmp_path / "photos", self.COUNT)
        process = stop_in_the_second_transaction(database_url, folder)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert b"Interrupted. What was written is kept; the same command continues." in err
        assert b"Traceback" not in err
        assert out == b""
        check_that_it_continues(database_url, cluster, folder, self.COUNT)

    def test_kill(self, database_url: str, cluster: Any, tmp_path: Path) -> None:
        folder = many_photos(tmp_path / "photos", self.COUNT)
        process = stop_in_the_second_transaction(database_url, folder)
        process.kill()
        process.communicate()
        with example.connect(database_url) as connection:
            # The server notices a dead client when it next reads from it.
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE wait_event = 'PgSleep' AND datname = current_database()"
            )
            while sleeping(connection):
                time.sleep(0.1)
        check_that_it_continues(database_url, cluster, folder, self.COUNT)

    def test_the_server_goes_away(self, private_cluster: Any, tmp_path: Path) -> None:
        folder = many_photos(tmp_path / "photos", self.COUNT)
        with private_cluster.database(private_cluster.template()) as url:
            process = stop_in_the_second_transaction(url, folder)
            private_cluster.stop()
            _, err = process.communicate(timeout=60)
            assert process.returncode == 1, err
            assert b"Error: The database server went away." in err
            assert b"Traceback" not in err
            private_cluster.start()
            check_that_it_continues(url, private_cluster, folder, self.COUNT)


def sleeping(connection: psycopg.Connection[Any]) -> bool:
    row = connection.execute(
        "SELECT EXISTS (SELECT FROM pg_stat_activity WHERE wait_event = 'PgSleep'"
        " AND datname = current_database())"
    ).fetchone()
    return row == (True,)
