"""`encoders`, and the names under which other commands find one."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import typer

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from tests import command, example
from tests.command import answers


def test_dropping_everything(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nobody can be asked, only by a word; a way down that keeps the rows needs none."""
    refused = command.run("migrate", "--to", "base", stdin=b"y\n")
    assert refused.code == 2
    assert "--to base drops 1 encoder and the codes of 8 images: add --yes" in refused.err
    asked: list[str] = []

    def confirm(text: str, **options: bool) -> None:
        asked.append(text)
        raise typer.Abort

    terminal = SimpleNamespace(stdin=SimpleNamespace(isatty=lambda: True))
    with monkeypatch.context() as patched:
        patched.setattr("typer.confirm", confirm)
        patched.setattr("retrieval_db.console.database_commands.sys", terminal)
        assert command.run("migrate", "--to", "base").code == 1
    assert asked == ["Drop 1 encoder and the codes of 8 images?"]
    command.succeed("migrate", "--to", "0012")
    command.succeed("migrate")
    assert answers("--id", 1)[0]["hits"]
    command.succeed("migrate", "--to", "base", "--yes")
    command.succeed("migrate", "--to", "base")  # nothing is lost any more
    command.succeed("migrate")
    command.succeed("migrate", "--to", "base")


class TestEncoders:
    """Stored encoders are listed, moved between databases, refitted and removed."""

    def test_life_of_one(self, url: str, folder: Path, tmp_path: Path) -> None:
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
        torch = pytest.importorskip("torch", reason="the extra `encoder` is not installed")
        from safetensors.torch import save_file
        from torchvision.models import mobilenet_v2

        monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
        monkeypatch.setenv("RETRIEVAL_DB_HOME", str(tmp_path / "home"))
        # Weights that tell these photos apart: those of some draws do not, in half precision.
        torch.manual_seed(0)
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
