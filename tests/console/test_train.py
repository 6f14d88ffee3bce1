"""`train` on the command line, and the files that come of it."""

from __future__ import annotations

import errno
import io
import json
import os
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retrieval_db.encoder import checkpoint
from retrieval_db.encoder.hashing.recipes import Recipe
from retrieval_db.errors import UsageError
from tests import command

pytest.importorskip("torch", reason="the extra `encoder` is not installed")

COLOURS = {"blue": (40, 60, 200), "red": (200, 40, 40)}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos of two colours."""
    where, random = tmp_path_factory.mktemp("train"), np.random.default_rng(0)
    for name, colour in COLOURS.items():
        (where / "photos" / name).mkdir(parents=True)
        for number in range(8):
            noise = np.array(colour) + random.integers(-40, 40, (32, 32, 3))
            Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(
                where / "photos" / name / f"{number}.png"
            )
    return where


def train(folder: Path, *arguments: object) -> command.Outcome:
    return command.run(
        *("train", "--data", folder / "photos", "--backbone", "cifar", "--device", "cpu"),
        *("--epochs", 1, "--batch-size", 8, *arguments),
    )


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    file = folder / "colours.safetensors"
    outcome = train(folder, "--bits", "12,16", "--validation", "0.25", "--json", "-o", file)
    assert outcome.code == 0, outcome
    told = json.loads(outcome.out)
    assert told["images"] == 12
    assert [one["name"] for one in told["encoders"]] == ["colours-12", "colours-16"]
    assert "orthohash on photos: 12 images, 4 held out, cifar." in outcome.err
    assert "epoch 1/1: loss" in outcome.err
    return file


def test_what_lies_beside_the_encoder(trained: Path) -> None:
    assert trained.with_suffix(".epochs.csv").read_text().startswith("epoch,seconds,learning_rate")
    assert not trained.with_suffix(".state").exists()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    assert trained.with_suffix(".epochs.png").stat().st_size > 1000


@pytest.mark.parametrize("compact", [(), ("--compact",)])
def test_what_is_finished_is_not_trained_again(
    compact: tuple[str, ...], folder: Path, tmp_path: Path
) -> None:
    """A script may run `train --resume` until it succeeds."""
    out = tmp_path / "x.safetensors"
    again = ("--bits", "12,16", "--resume", "--json", *compact, "-o", out)
    first = train(folder, *again)
    assert first.code == 0, first
    assert "There is nothing to resume: the training begins anew." in first.err
    second = train(folder, *again)
    assert (second.code, second.out) == (0, first.out)
    assert f"{out} is there, and no state beside it: this training is finished." in second.err
    assert "epoch" not in second.err
    for other in (("--seed", 1), ("--bits", 12), ("--method", "csq")):
        refused = train(folder, *again, *other)
        assert refused.code == 2
        assert f"{out} is of another training: choose another -o" in refused.err
    out.write_bytes(b"no encoder")
    assert "is of another training" in train(folder, *again).err
    out.unlink()
    out.with_suffix(".state").write_bytes(b"damaged")
    assert "damaged: delete it and begin anew" in train(folder, *again).err


@pytest.mark.parametrize("ending", [".csv", ".png"])
def test_what_lay_there_is_not_written_over(ending: str, folder: Path, tmp_path: Path) -> None:
    listed = tmp_path / f"x{ending}"
    photos = sorted((folder / "photos").glob("*/*.png"))
    listed.write_text("".join(f"{photo} {photo.parent.name}\n" for photo in photos))
    text = listed.read_text()
    out = tmp_path / "x.safetensors"
    outcome = train(folder, "--data", listed, "--bits", 12, "-o", out)
    assert outcome.code == 0, outcome
    assert listed.read_text() == text


@pytest.mark.parametrize("ending", [".epochs.csv", ".epochs.png", ".state", ".safetensors"])
@pytest.mark.parametrize("form", ["{}", "train={},query=other.txt"])
def test_lists_that_would_be_written_over(
    form: str, ending: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    data = form.format(f"x{ending}")
    outcome = command.run("train", "--data", data, "-o", tmp_path / "x.safetensors")
    assert outcome.code == 2
    assert f"x{ending} holds the data, and would be written over" in outcome.err


def test_a_trained_encoder_indexes_and_searches(
    trained: Path, folder: Path, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
    photos = folder / "photos"
    refused = command.run("index", photos, "-e", trained)
    assert refused.code == 2
    assert f"{trained}:colours-12" in refused.err
    command.succeed("index", photos, "-e", f"{trained}:colours-16", "--labels", "folder")
    command.succeed("index", photos, "-e", trained, "--bits", 12)
    found = json.loads(
        command.succeed("search", photos / "red" / "0.png", "-e", "colours-16", "--json").out
    )
    assert len(found[0]["hits"]) == 10
    command.succeed("encoders", "add", trained)  # both are there already
    listed = json.loads(command.succeed("encoders", "list", "--json").out)
    assert {one["name"] for one in listed} == {"colours-12", "colours-16"}
    named = command.run("encoders", "add", trained, "--name", "other")
    assert named.code == 2
    assert "holds 2 encoders" in named.err
    command.succeed("encoders", "add", f"{trained}:colours-12", "--name", "other")
    # Refused before a photo is read.
    refused = command.run("encoders", "refit", "colours-16")
    assert refused.code == 2
    assert "orthohash learns from labels" in refused.err
    assert "Fitting" not in refused.err


def test_an_encoder_of_no_numbers_is_not_stored(
    trained: Path, folder: Path, tmp_path: Path, database_url: str
) -> None:
    name, config, tensors = checkpoint.unpack_all(trained.read_bytes())[0]
    file = tmp_path / "nan.safetensors"
    broken = {**tensors, "head.bias": np.full_like(tensors["head.bias"], np.nan)}
    file.write_bytes(checkpoint.pack(name, config, broken))
    refused = command.run("index", folder / "photos", "-e", file, "-d", database_url)
    assert refused.code == 1
    assert "its weights are no finite numbers" in refused.err
    listed = command.succeed("encoders", "list", "--json", "-d", database_url)
    assert json.loads(listed.out) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["--bits", "12", "--set", "margine=3"], 2, "no option 'margine'; those it has: scale, m"),
        (["--bits", "12", "--set", "margin"], 2, "NAME=NUMBER such as margin=20"),
        (["--set", "margin=-5"], 2, "margin=-5 is out of range (0 to 1,000,000)"),
        (["--set", "margin=1", "--set", " margin = .1"], 2, "--set gives margin twice"),
        (["--bits", "a"], 2, "a list such as 12,32,48"),
        (["--bits", "30"], 2, "multiple of 4"),
        (["--method", "orthohash48"], 2, "--method orthohash --bits"),
        (["--method", "sift"], 2, "Unknown method 'sift'"),
        (["--frozen"], 2, "cannot be frozen"),
        (["--backbone", "cifar_smal"], 2, "The backbones are cifar, cifar_medium, cifar_large, m"),
        (["--method", "lsh", "--lr", 3], 2, "no use for --epochs, --lr, --batch-size: leave"),
        (["--protocol", "cifar10-5k"], 2, "100 images of the class"),
    ],
)
def test_wrong_usage(
    arguments: list[str], code: int, message: str, folder: Path, tmp_path: Path
) -> None:
    outcome = train(folder, "-o", tmp_path / "x.safetensors", *arguments)
    assert outcome.code == code, outcome
    assert message in outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("ending", [".state", ".epochs.csv", ".epochs.png", ".safetensors"])
def test_a_full_disk(
    ending: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if ending.endswith(".png"):
        pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    temporary, opened = tempfile.mkstemp, os.fdopen
    full: set[int] = set()

    def numbered(**options: Any) -> tuple[int, str]:
        handle, name = temporary(**options)
        if options.get("prefix", "").startswith(f"x{ending}"):
            full.add(handle)
        return handle, name

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def filled(handle: int, mode: str) -> Any:
        file = opened(handle, mode)
        if handle not in full:
            return file
        file.close()
        return Full()

    monkeypatch.setattr("retrieval_db.encoder.files.tempfile.mkstemp", numbered)
    monkeypatch.setattr("retrieval_db.encoder.files.os.fdopen", filled)
    outcome = train(folder, "--bits", 12, "-o", tmp_path / "x.safetensors")
    assert outcome.code == 1
    said = outcome.err.splitlines()[-1]
    assert said == f"Error: Cannot write {tmp_path / f'x{ending}'}: No space left on device."


def test_before_a_photo_is_read(folder: Path, tmp_path: Path) -> None:
    """What is wrong with the method or with the number of classes."""
    out, data = ("-o", tmp_path / "x.safetensors"), ("train", "--data", folder / "photos")
    fitted = command.run(*data, "--backbone", "cifar", "--method", "itq", *out)
    assert fitted.code == 2
    assert "so it cannot be frozen, as itq needs it: give an encoder that has it" in fitted.err
    assert "leave out" not in fitted.err
    listed = tmp_path / "many.txt"
    listed.write_text("".join(f"{number // 2}.png class{number // 2}\n" for number in range(600)))
    for options in (("--bits", 4), ("--bits", 16, "--set", "nested=4"), ("--method", "csq")):
        many = train(folder, "--data", listed, "--bits", "4,64", *options, *out)
        assert many.code == 2
        assert "Error: 300 classes need more than 4 bits." in many.err
        assert "Reading" not in many.err
    not_npz = train(folder, "--data", f"cifar10:{listed}", *out)
    assert not_npz.code == 1
    assert "is not an npz with jpeg, offsets, labels and n_train. A list is named" in not_npz.err
    assert "pickle" not in not_npz.err


@pytest.mark.parametrize("precision", ["bf16", "bfloat16"])
def test_both_names_of_a_precision(
    precision: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def seen(data: object, rows: object, base: object, recipe: Recipe, **_: object) -> None:
        raise UsageError(f"precision: {recipe.precision}")

    monkeypatch.setattr("retrieval_db.encoder.training.train", seen)
    out = tmp_path / "x.safetensors"
    outcome = train(folder, "--bits", 12, "--precision", precision, "-o", out)
    assert "precision: bfloat16" in outcome.err


@pytest.mark.parametrize(("options", "mirror"), [((), True), (("--no-mirror",), False)])
def test_photos_that_a_mirror_would_change(
    options: tuple[str, ...],
    mirror: bool,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def seen(data: object, rows: object, base: object, recipe: Recipe, **_: object) -> None:
        raise UsageError(f"mirrored: {recipe.mirror}")

    monkeypatch.setattr("retrieval_db.encoder.training.train", seen)
    outcome = train(folder, "--bits", 12, *options, "-o", tmp_path / "x.safetensors")
    assert f"mirrored: {mirror}" in outcome.err


def test_impossible_data(folder: Path, tmp_path: Path) -> None:
    single = tmp_path / "single"
    (single / "red").mkdir(parents=True)
    for number in range(3):
        command.photo(number).save(single / "red" / f"{number}.png")
    out = tmp_path / "x.safetensors"
    one = command.run("train", "--data", single, "--backbone", "cifar", "-o", out)
    assert one.code == 1
    assert "at least two classes (all are 'red')" in one.err
    (single / "blue").mkdir()
    command.photo(9).save(single / "blue" / "9.png")
    alone = command.run("train", "--data", single, "--backbone", "cifar", "-o", out)
    assert alone.code == 1
    assert "one alone is there of 'blue'" in alone.err
    wrong = command.run("train", "--data", folder / "photos", "-o", tmp_path / "x.pth")
    assert wrong.code == 2
    assert "ends in .safetensors" in wrong.err
    assert not out.exists()
