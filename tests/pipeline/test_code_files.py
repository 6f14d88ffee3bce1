"""Codes in a file between the photos and the table: `encode` writes what `load` reads."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval_db
from retrieval_db import CodeSet, read_npz
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.interchange.npz_writer import NpzWriter
from tests import command
from tests.example import rows
from tests.pipeline.indexed import EVERYTHING


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
        folder = command.many_photos(tmp_path / "photos", 150)
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
