"""Data sets: folders, lists, and tiny copies of the published layouts, made here."""

from __future__ import annotations

import hashlib
import io
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db import photos
from retrieval_db.encoder.datasets import Dataset, open_data, protocol, validation
from retrieval_db.encoder.datasets.dataset import parts
from retrieval_db.encoder.datasets.images import Pixels
from retrieval_db.errors import DataUnavailable, FormatError, UsageError
from tests.command import photo


def write(folder: Path, *names: str) -> Path:
    """A photo under each of these names."""
    for seed, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(file)
    return folder


def made(count: int, classes: int, **sizes: int) -> Dataset:
    """Tiny grey images; the labels go round."""
    pixels = np.random.default_rng(0).integers(0, 256, (count, 2, 2), dtype=np.uint8)
    return Dataset(
        "made",
        Pixels("made", pixels),
        np.arange(count, dtype=np.int64) % classes,
        tuple(f"class {number}" for number in range(classes)),
        parts(sizes),
    )


def test_a_folder_for_each_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    write(tmp_path, "cat/a.png", "cat/deep/b.jpg", "dog/c.png", "astray.png", ".git/d.png")
    data = open_data(str(tmp_path))
    assert data.classes == ("cat", "dog")
    assert data.labels.tolist() == [0, 0, 1]
    assert data.label_name(2) == "dog"
    assert data.splits == {}
    assert data.images[0].mode == "RGB"
    assert data.images[0] == photo(0)
    assert (
        data.images.read(1).sha256
        == hashlib.sha256(Path(data.images.path(1)).read_bytes()).digest()
    )
    assert "no class's folder and are left out: 1" in caplog.text


def test_folders_of_splits(tmp_path: Path) -> None:
    write(tmp_path, "train/cat/a.png", "train/dog/b.png", "val/dog/c.png", "test/owl/d.png")
    data = open_data(str(tmp_path))
    assert data.classes == ("cat", "dog", "owl")
    named = {name: [data.label_name(row) for row in rows] for name, rows in data.splits.items()}
    assert named == {"train": ["cat", "dog"], "validation": ["dog"], "test": ["owl"]}


def test_a_class_may_be_called_train(tmp_path: Path) -> None:
    data = open_data(str(write(tmp_path, "train/a.png", "bus/b.png")))
    assert data.classes == ("bus", "train")
    assert not data.splits


def test_lists(tmp_path: Path) -> None:
    write(tmp_path, "one photo.png", "b.png", "c.png")
    (tmp_path / "a.txt").write_text("# name class\none photo.png 10\n\nb.png 2\n")
    (tmp_path / "q.txt").write_text("c.png\t9\n")
    data = open_data(str(tmp_path / "a.txt"))
    assert data.classes == ("2", "10"), "numbers are sorted as numbers"
    assert data.labels.tolist() == [1, 0]
    assert data.images[0] == photo(0)
    data = open_data(f"train={tmp_path / 'a.txt'},query={tmp_path / 'q.txt'}")
    assert data.classes == ("2", "9", "10")
    assert {name: rows.tolist() for name, rows in data.splits.items()} == {
        "train": [0, 1],
        "query": [2],
    }
    elsewhere = tmp_path / "lists"
    elsewhere.mkdir()
    (elsewhere / "c.txt").write_text("b.png owl\n")
    data = open_data(str(elsewhere / "c.txt"), root=tmp_path)
    assert data.images[0] == photo(1)


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "word.txt").write_text("photo.png\n")
    (tmp_path / "none.txt").write_text("\n")
    for spec, kind, reason in (
        ("nowhere", UsageError, "no file or folder"),
        ("", UsageError, "no file or folder"),
        (str(tmp_path / "empty"), UsageError, "one folder of images for each class"),
        (str(tmp_path / "word.txt"), FormatError, "line 1: expected `name class`"),
        (str(tmp_path / "none.txt"), UsageError, "is empty"),
        ("train=nowhere.txt", UsageError, "cannot be read"),
        ("val=a.txt,validation=b.txt", UsageError, "validation list twice"),
        ("mnist:", UsageError, "lacks the path"),
        ("cub200", UsageError, "name its folder"),
        (f"cub200:{tmp_path}", UsageError, "no images.txt"),
        (f"stanford-dogs:{tmp_path}", UsageError, "no Images"),
        (f"cifar10:{tmp_path / 'no.npz'}", UsageError, "no file"),
        (f"cifar10:{tmp_path / 'word.txt'}", FormatError, "not an npz"),
    ):
        with pytest.raises(kind, match=reason):
            open_data(spec)


def test_the_npz_of_jpeg_bytes(tmp_path: Path) -> None:
    files = []
    for seed in range(5):
        file = io.BytesIO()
        photo(seed).save(file, "JPEG")
        files.append(file.getvalue())
    arrays: dict[str, Any] = {
        "jpeg": np.frombuffer(b"".join(files), np.uint8),
        "offsets": np.cumsum([0, *map(len, files)]),
        "labels": np.array([6, 9, 9, 4, 1], np.uint8),
        "n_train": np.int64(3),
    }
    np.savez(tmp_path / "copy.npz", **arrays)
    data = open_data(f"cifar10:{tmp_path / 'copy.npz'}")
    assert data.name == "CIFAR-10 (JPEG copy)"
    assert data.label_name(0) == "frog"
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 3, "test": 2}
    assert data.images.read(4).sha256 == hashlib.sha256(files[4]).digest()
    assert data.images[3] == photos.decode(files[3], Path("3"))
    arrays["offsets"] = arrays["offsets"] + 1
    np.savez(tmp_path / "bad.npz", **arrays)
    with pytest.raises(FormatError, match="offsets"):
        open_data(f"cifar10:{tmp_path / 'bad.npz'}")


def test_the_real_npz(data_dir: Path) -> None:
    cifar = open_data(f"cifar10:{data_dir / 'cifar10' / 'cifar10_jpeg.npz'}")
    assert len(cifar) == 60_000
    assert np.bincount(cifar.labels).tolist() == [6000] * 10
    assert cifar.images[59_999].size == (32, 32)


def test_cifar10_through_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("torchvision.datasets")
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (6, 3, 32, 32), dtype=np.uint8)

    def batch(name: str, content: object) -> list[str]:
        (folder / name).write_bytes(pickle.dumps(content))
        return [name, hashlib.md5((folder / name).read_bytes()).hexdigest()]

    training = batch("data_batch_1", {"data": pixels[:4].reshape(4, -1), "labels": [0, 1, 2, 3]})
    testing = batch("test_batch", {"data": pixels[4:].reshape(2, -1), "labels": [9, 8]})
    names = batch("meta", {"label_names": [f"c{number}" for number in range(10)]})
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [training])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [testing])
    monkeypatch.setitem(datasets.CIFAR10.meta, "md5", names[1])
    monkeypatch.setitem(datasets.CIFAR10.meta, "filename", "meta")
    data = open_data(f"cifar10:{tmp_path}")
    assert data.name == "CIFAR-10"
    assert data.labels.tolist() == [0, 1, 2, 3, 9, 8]
    assert np.array_equal(np.asarray(data.images[4]), pixels[4].transpose(1, 2, 0))
    assert data.splits["test"].tolist() == [4, 5]
    assert data.classes[9] == "c9"


def test_mnist_through_torchvision(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    digits = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)

    def idx(name: str, array: NDArray[np.uint8]) -> None:
        head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
        (folder / name).write_bytes(head + array.tobytes())

    for name, rows in (("train", slice(0, 3)), ("t10k", slice(3, 5))):
        idx(f"{name}-images-idx3-ubyte", digits[rows])
        idx(f"{name}-labels-idx1-ubyte", np.array([7, 2, 1, 0, 4], np.uint8)[rows])
    data = open_data("mnist", root=tmp_path)
    assert data.labels.tolist() == [7, 2, 1, 0, 4]
    assert data.images[3].mode == "RGB"
    assert np.array_equal(np.asarray(data.images[3].convert("L")), digits[3])
    assert {name: len(rows) for name, rows in data.splits.items()} == {"train": 3, "test": 2}


def test_what_cannot_be_downloaded_is_said(tmp_path: Path) -> None:
    pytest.importorskip("torchvision")
    with pytest.raises(DataUnavailable, match=r"mnist is not in .*mnist:PATH"):
        open_data(f"mnist:{tmp_path}")


def test_cub_200_2011(tmp_path: Path) -> None:
    folder = tmp_path / "CUB_200_2011"
    names = (
        "001.Black_footed_Albatross/a.jpg",
        "001.Black_footed_Albatross/b.jpg",
        "010.Crow/c.jpg",
    )
    write(folder / "images", *names)
    (folder / "images.txt").write_text("".join(f"{i + 1} {n}\n" for i, n in enumerate(names)))
    (folder / "image_class_labels.txt").write_text("1 1\n2 1\n3 10\n")
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n3 1\n")
    (folder / "classes.txt").write_text("1 001.Black_footed_Albatross\n10 010.Crow\n")
    for place in (folder, tmp_path):
        data = open_data(f"cub200:{place}")
        assert data.classes == ("001.Black_footed_Albatross", "010.Crow")
        assert data.labels.tolist() == [0, 0, 1]
        assert data.splits["train"].tolist() == [0, 2]
        assert data.splits["test"].tolist() == [1]
        assert data.images[2].size == photo(2).size
    (folder / "train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(FormatError, match="not of the same images"):
        open_data(f"cub200:{folder}")


@pytest.mark.parametrize("lists", [".", "lists"])
def test_stanford_dogs(tmp_path: Path, lists: str) -> None:
    from scipy.io import savemat

    names = (
        "n02085620-Chihuahua/a.jpg",
        "n02085936-Maltese_dog/b.jpg",
        "n02085620-Chihuahua/c.jpg",
    )
    write(tmp_path / "Images", *names)
    (tmp_path / lists).mkdir(exist_ok=True)
    for split, rows in (("train", slice(0, 2)), ("test", slice(2, 3))):
        cells = np.array(names[rows], dtype=object).reshape(-1, 1)
        labels = np.array([1, 2, 1], dtype=np.float64)[rows].reshape(-1, 1)
        savemat(tmp_path / lists / f"{split}_list.mat", {"file_list": cells, "labels": labels})
    data = open_data(f"stanford-dogs:{tmp_path}")
    assert data.classes == ("Chihuahua", "Maltese_dog")
    assert data.labels.tolist() == [0, 1, 0]
    assert data.splits["test"].tolist() == [2]
    assert data.images[1].size == photo(1).size


def test_the_protocol_of_2015() -> None:
    split = protocol(made(60, 4, train=40, test=20), "cvprw15")
    assert split.train.tolist() == split.database.tolist() == list(range(40))
    assert split.query.tolist() == list(range(40, 60))
    assert (split.k, split.denominator) == (1000, "found")


def test_queries_and_training_images_drawn_from_all() -> None:
    data = made(2800, 4, train=2000, test=800)
    split = protocol(data, "cifar10-5k", seed=1)
    assert np.bincount(data.labels[split.query]).tolist() == [100] * 4
    assert np.bincount(data.labels[split.train]).tolist() == [500] * 4
    assert len(split.database) == 2400
    assert not np.isin(split.query, split.database).any()
    assert np.isin(split.train, split.database).all()
    assert split.k is None
    assert np.array_equal(split.query, protocol(data, "cifar10-5k", seed=1).query)
    assert not np.array_equal(split.query, protocol(data, "cifar10-5k", seed=2).query)
    with pytest.raises(UsageError, match="100 images of the class"):
        protocol(made(60, 4), "cifar10-5k")


def test_unseen_classes_are_not_trained_on() -> None:
    data = made(600, 10, train=500, test=100)
    split = protocol(data, "unseen", seed=0)
    trained, asked = set(data.labels[split.train]), set(data.labels[split.query])
    assert (len(trained), len(asked)) == (7, 3)
    assert not trained & asked
    assert set(data.labels[split.database]) == asked
    assert split.database.max() < 500 <= split.query.min()
    assert len(split.train) == 350
    assert any(
        set(data.labels[protocol(data, "unseen", seed).query]) != asked for seed in range(1, 4)
    )
    with pytest.raises(UsageError, match="at least 4 classes"):
        protocol(made(30, 3, train=20, test=10), "unseen")


def test_the_full_ranking() -> None:
    given = protocol(made(60, 4, train=30, database=20, query=10), "full")
    assert (len(given.train), len(given.database), len(given.query)) == (30, 20, 10)
    data = made(61, 4)
    drawn = protocol(data, "full")
    assert np.bincount(data.labels[drawn.query]).tolist() == [2] * 4
    assert np.array_equal(drawn.train, drawn.database)
    assert np.array_equal(np.sort([*drawn.train, *drawn.query]), np.arange(61))
    with pytest.raises(UsageError, match="has no queries"):
        protocol(made(8, 2, train=8), "full")
    with pytest.raises(UsageError, match="Unknown protocol"):
        protocol(data, "half")


def test_choices_are_made_within_the_training_set() -> None:
    data = made(600, 10, train=500, test=100)
    for name in ("cvprw15", "unseen", "full"):
        split = protocol(data, name)
        held = validation(data, split, seed=3)
        assert len(held.query) == len(split.train) // 10
        assert np.array_equal(np.sort([*held.train, *held.query]), split.train)
        assert np.array_equal(held.database, held.train)
        assert (held.k, held.denominator) == (split.k, split.denominator)
    with pytest.raises(UsageError, match="too few"):
        validation(made(8, 2), protocol(made(8, 2), "full"))


def test_data_sets_load_no_torch() -> None:
    code = (
        "import sys\n"
        "import retrieval_db.encoder.datasets\n"
        "assert not {'torch', 'torchvision', 'scipy'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
