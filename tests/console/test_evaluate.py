"""`evaluate`, `thresholds` and `encoders health` as a user types them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from retrieval_db import connect, read_npz, write_npz
from tests.command import photos, run, succeed

CLASSES = ("bus", "cat", "dog", "owl")


def folder(place: Path, each: int = 6) -> Path:
    """Photos in folders of their class: each class has a colour of its own, and noise."""
    random = np.random.default_rng(0)
    for number, name in enumerate(CLASSES):
        for split, count in (("train", each), ("test", 3)):
            for photo in range(count):
                small = random.integers(0, 90, (4, 4, 3))
                small[:, :, number % 3] += 60 * (1 + number // 3)
                file = place / split / name / f"{photo}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(small.astype(np.uint8)).resize((32, 32)).save(file)
    return place


@pytest.fixture
def indexed(database_url: str, tmp_path: Path) -> tuple[str, Path]:
    """A database with the training photos, and the folder of all."""
    place = folder(tmp_path / "photos")
    succeed(
        "index", place / "train", "-e", "phash64", "--labels", "folder", "--database", database_url
    )
    return database_url, place


def test_over_the_live_table(indexed: tuple[str, Path], tmp_path: Path) -> None:
    url, place = indexed
    plots = tmp_path / "plots"
    done = succeed("evaluate", "-d", url, "--queries", place / "test", "--plots", plots, "--health")
    assert re.search(r" mAP  +P@10 ", done.out), "one column: the whole ranking"
    assert "24 images, 24 distinct codes" in done.out
    assert "k is 24, since the database has no 1,000 images" in done.err
    assert (plots / "rankings.png").stat().st_size > 10_000
    assert (plots / "rankings.svg").read_text().startswith("<?xml")

    codes_file = tmp_path / "codes.npz"
    succeed("encode", place / "test", "-e", "phash64", "--labels", "folder", "-o", codes_file)
    queries = read_npz(codes_file)
    found = json.loads(succeed("evaluate", "-d", url, "--queries", codes_file, "--json").out)
    score = found["encoders"][0]
    assert (score["queries"], score["database"]) == (len(queries), 24)
    # The very same in memory: the folder is a data set with these splits.
    memory = json.loads(succeed("evaluate", "phash64", "--data", place, "--k", 1000, "--json").out)
    other = memory["encoders"][0]
    assert other["mean_average_precision"] == pytest.approx(score["mean_average_precision"])
    assert other["radius"] == score["radius"]

    few = succeed("evaluate", "-d", url, "--queries", 10, "--k", 10)
    assert "mAP@10 (÷ relevant)" in few.out
    assert "mAP@10 (÷ found)" in few.out
    rows = json.loads(succeed("evaluate", "-d", url, "--queries", 10, "--json").out)
    assert rows["encoders"][0]["queries"] == 10
    assert rows["encoders"][0]["database"] == 23
    with connect(url) as db:
        assert db.encoder().name == "phash64"


def test_queries_do_not_find_their_copies(indexed: tuple[str, Path]) -> None:
    """Neither in the live table nor in a data set."""
    url, place = indexed
    for name in CLASSES:
        shutil.copy(place / "train" / name / "0.png", place / "test" / name / "copy.png")
    options = ("--k", 1000, "--json")
    found = [
        json.loads(succeed("evaluate", *source, *options).out)["encoders"][0]
        for source in (
            ("phash64", "-d", url, "--queries", place / "test"),
            ("phash64", "--data", place),
        )
    ]
    for one in found:
        assert one["queries"] == len(CLASSES) * 4
        assert one["mean_average_precision"] == pytest.approx(found[0]["mean_average_precision"])
        assert one["radius"] == found[0]["radius"]


def test_the_best_radius(indexed: tuple[str, Path]) -> None:
    url, place = indexed
    done = succeed("thresholds", "phash64", "-d", url, "--queries", place / "test")
    assert sum(line.split()[-1:] == ["best"] for line in done.out.splitlines()) == 1
    found = json.loads(succeed("thresholds", "-d", url, "--queries", place / "test", "--json").out)[
        0
    ]
    assert found["encoder"] == "phash64"
    assert found["f1"][found["best"]] == max(found["f1"])
    data = json.loads(succeed("thresholds", "phash64", "--data", place, "--json").out)[0]
    assert data["f1"] == found["f1"]


def test_the_health_of_stored_codes(indexed: tuple[str, Path]) -> None:
    url, _ = indexed
    assert "24 distinct codes" in succeed("encoders", "health", "-d", url).out
    found = json.loads(succeed("encoders", "health", "phash64", "-d", url, "--json").out)[0]
    assert (found["images"], found["bits"]) == (24, 64)


def test_from_coarse_to_fine(database_url: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    place = photos(tmp_path / "a", [f"{name}/{n}.png" for name in CLASSES for n in range(8)])
    file = tmp_path / "codes.npz"
    succeed("encode", place, "-e", "phash64", "--labels", "folder", "-o", file)
    items = read_npz(file)
    features = random.standard_normal((len(items), 8)).astype(np.float32)
    write_npz(file, type(items)(**(vars(items) | {"features": features})))
    succeed("load", file, "-d", database_url)
    options = ("-d", database_url, "--queries", 6, "--stage", "fine", "--pools", "5,20")
    done = succeed("evaluate", *options, "--plots", tmp_path / "plots")
    assert [line.split()[0] for line in done.out.splitlines() if " ms" not in line and line.strip()]
    assert done.out.count("fine") == 2
    assert (tmp_path / "plots" / "pools-phash64.png").stat().st_size > 10_000
    found = json.loads(succeed("evaluate", *options, "--json").out)[0]
    assert [one["pool"] for one in found["stages"]] == [None, 5, 20, None]
    assert found["stages"][-1]["recall_at_10"] == 1


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """A file of random weights for mobilenet_v2."""
    torch = pytest.importorskip("torch")
    from safetensors.torch import save_file
    from torchvision.models import mobilenet_v2

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        state = mobilenet_v2().state_dict()
    file = tmp_path / "mobilenet.safetensors"
    save_file(state, file)
    return file


def test_a_method_where_a_database_is_named(indexed: tuple[str, Path]) -> None:
    url, place = indexed
    options = ("--data", place, "-d", url, "--json")
    found = json.loads(succeed("evaluate", "phash64", "phash256", *options).out)
    assert [one["bits"] for one in found["encoders"]] == [64, 256]
    unknown = run("evaluate", "nothing", *options)
    assert (unknown.code, "no encoder 'nothing'" in unknown.err) == (1, True)


def test_encoders_of_one_network_in_any_order(tmp_path: Path, weights: Path) -> None:
    """One that is to be fitted sees all its training images, also after one that is not."""
    place, file = folder(tmp_path / "photos"), tmp_path / "trained.safetensors"
    network = ("--weights", weights, "--input-size", 32)
    training = ("--method", "latent_ce", "--bits", 8, "--frozen", "--epochs", 1)
    succeed("train", "--data", place, *training, *network, "--protocol", "unseen", "-o", file)
    options = ("--data", place, *network, "--protocol", "unseen", "--no-baselines", "--json")
    scores = [
        {one["bits"]: one["mean_average_precision"] for one in json.loads(done.out)["encoders"]}
        for done in (
            succeed("evaluate", "itq4", file, *options),
            succeed("evaluate", file, "itq4", *options),
        )
    ]
    assert scores[0] == scores[1]
    assert len(scores[0]) == 2


def test_methods_are_fitted_on_the_training_images(tmp_path: Path, weights: Path) -> None:
    place = folder(tmp_path / "photos")
    options = ("--data", place, "--weights", weights, "--input-size", 32)
    done = succeed("evaluate", "itq8", "lsh16", *options, "--protocol", "unseen", "--json")
    found = json.loads(done.out)
    assert found["protocol"] == "unseen"
    names = [one["name"] for one in found["encoders"]]
    assert names == ["itq8", "lsh16"]
    beside = [[base["name"] for base in one["baselines"]] for one in found["encoders"]]
    assert beside[0] == ["cosine of mobilenet_v2 features"]
    assert beside[1][0] == "cosine of mobilenet_v2 features"
    assert found["encoders"][0]["queries"] == 6, "two classes are unseen"
    mixed = json.loads(succeed("evaluate", "phash64", "lsh16", *options, "--json").out)
    assert [one["bits"] for one in mixed["encoders"]] == [64, 16]
    held = json.loads(succeed("evaluate", "lsh16", *options, "--validation", "--json").out)
    assert held["note"].startswith("held out")
    assert held["queries"] + held["train"] == 24


@pytest.mark.parametrize("method", ["itq_cca", "itq"])
def test_encoders_that_know_the_unseen_classes(method: str, tmp_path: Path, weights: Path) -> None:
    """By the images that they learnt from, also without labels; or by the names of classes."""
    place, network = folder(tmp_path / "photos"), ("--weights", weights, "--input-size", 32)
    made = {}
    for title, options in (
        ("own", ("--protocol", "unseen", "--seed", 1)),
        ("other", ("--protocol", "unseen", "--seed", 0)),
        ("all", ()),
    ):
        made[title] = tmp_path / f"{title}.safetensors"
        training = ("--data", place, "--method", method, "--bits", 4, *network, *options)
        succeed("train", *training, "-o", made[title])
    asking = ("--data", place, "--weights", weights, "--protocol", "unseen", "--json")
    succeed("evaluate", made["own"], *asking, "--seed", 1)
    for title, names in (("other", "cat"), ("all", "bus, cat")):
        done = run("evaluate", made[title], *asking, "--seed", 1)
        assert done.code == 2, done
        assert f"was trained on {names}, which protocol unseen hides with --seed 1" in done.err
        assert "Encoding" not in done.err


def test_names_of_unseen_classes(tmp_path: Path, weights: Path) -> None:
    """Other photos of the same classes: nothing is hidden from who has learnt those."""
    place, network = folder(tmp_path / "photos"), ("--weights", weights, "--input-size", 32)
    others = photos(tmp_path / "others", [f"{name}/{n}.png" for name in CLASSES for n in range(3)])
    file = tmp_path / "trained.safetensors"
    training = ("--method", "itq_cca", "--bits", 4, *network, "-o", file)
    succeed("train", "--data", others, *training)
    asking = ("--data", place, "--weights", weights, "--protocol", "unseen", "--seed", 1)
    done = run("evaluate", file, *asking)
    assert (done.code, "was trained on bus, cat, which" in done.err) == (2, True), done
    # A photo that lies in a trained class, too, says nothing.
    shutil.copy(place / "train" / "dog" / "0.png", place / "train" / "cat" / "copy.png")
    own = (*training, "--protocol", "unseen", "--seed", 1)
    succeed("train", "--data", place, *own)
    succeed("evaluate", file, *asking)


def test_an_encoder_of_labels_beside_the_label_that_it_predicts(
    tmp_path: Path, weights: Path
) -> None:
    place, file = folder(tmp_path / "photos"), tmp_path / "trained.safetensors"
    backbone = ("--weights", weights, "--input-size", 32)
    training = ("--method", "latent_ce", "--bits", "8,12", "--frozen", "--epochs", 2)
    succeed("train", "--data", place, *training, *backbone, "-o", file)
    found = json.loads(
        succeed("evaluate", file, "--data", place, "--weights", weights, "--json").out
    )
    assert [one["bits"] for one in found["encoders"]] == [8, 12]
    for one in found["encoders"]:
        assert [base["name"] for base in one["baselines"]] == [f"{one['name']}: predicted label"]
        assert one["left_out"] == {}
    # Only training photos to ask with: it has learnt every one of them.
    done = run("evaluate", file, "--data", place / "train", "--weights", weights)
    assert done.code == 2
    assert "was trained on every one of these queries" in done.err


def test_wrong_use_is_answered_with_the_cure(indexed: tuple[str, Path], tmp_path: Path) -> None:
    url, place = indexed
    for arguments, code, cure in (
        (("--data", place), 2, "Name an encoder"),
        (("phash64", "--data", place, "--protocol", "half"), 2, "cvprw15"),
        (("phash64", "--data", place, "--stage", "fine"), 2, "leave --data out"),
        (("phash64", "--data", tmp_path / "none"), 2, "no file or folder"),
        (("-d", url, "--queries", tmp_path / "none"), 2, "--queries is a folder"),
        (("-d", url, "--stage", "fine"), 2, "'phash64' has no features, so there is no fine"),
        (("-d", url, "--stage", "fine", "--pools", "many"), 2, "--pools is a list"),
        (("-d", url, "--pools", 5), 2, "--pools goes with --stage fine"),
        (("-d", url, "--stage", "fine", "--health"), 2, "--health goes with --stage coarse"),
        (("-d", url, "--queries", 0), 2, "at least 1 row"),
        (("-d", url, "--protocol", "full", "--no-baselines"), 2, "--protocol, --baselines: add"),
        (("-d", url, "--flip", "--validation"), 2, "--validation, --flip: add --data"),
        (("phash64", "--data", place, "--queries", 9), 2, "--queries asks the live table"),
        (("other", "-d", url), 1, "no encoder 'other'"),
    ):
        done = run("evaluate", *arguments)
        assert (done.code, cure in done.err) == (code, True), done
