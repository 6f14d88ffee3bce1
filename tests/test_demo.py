"""The demos, whole, on a real database; and that they leave everything else alone."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
import pytest
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import CodeSet, codes, connect, demo, encoder
from retrieval_db.client import Database
from retrieval_db.demo import DemoReport, digits, made, steps
from retrieval_db.demo import photos as photos_demo
from retrieval_db.errors import EncoderUnavailable, ImageError, UsageError
from retrieval_db.evaluation import metrics
from tests import postgres


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with connect(database_url) as database:
        yield database


@pytest.fixture
def core_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "missing_packages", lambda: ["torch", "sklearn"])


def table(db: Database, name: str) -> tuple[NDArray[np.int64], NDArray[np.int64], list[str]]:
    """Ids [N], words [N, 4] and labels of an encoder's rows, by id."""
    rows = db.connection.execute(
        "SELECT id, code_1, code_2, code_3, code_4, label FROM images "
        "WHERE encoder_id = (SELECT id FROM encoders WHERE name = %s) ORDER BY id",
        [name],
    ).fetchall()
    numbers = np.array([row[:5] for row in rows], dtype=np.int64)
    return numbers[:, 0], numbers[:, 1:], [row[5] for row in rows]


def distances(report: DemoReport, db: Database, number: int, bits: int) -> NDArray[np.int32]:
    """From one query to every row, by NumPy."""
    _, words, _ = table(db, report.encoder)
    query = np.array([report.answers[number].words], dtype=np.int64)
    packed = (codes.from_words(query, bits), codes.from_words(words, bits))
    far: NDArray[np.int32] = codes.hamming_distances(*packed)[0]
    return far


# The digits


@dataclass(frozen=True)
class DigitsRun:
    """One run of the digits demo, which all its tests read."""

    url: str
    output: Path
    report: DemoReport
    said: str


@pytest.fixture(scope="module")
def digits_run(
    cluster: postgres.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[DigitsRun]:
    for package in demo.EXTRA:
        pytest.importorskip(package)
    said: list[str] = []
    output = tmp_path_factory.mktemp("digits demo")
    with cluster.database(cluster.template()) as url:
        with connect(url) as db:
            report = demo.run(db, output, say=said.append, device="cpu")
        yield DigitsRun(url, output, report, "\n".join(said))


def test_digits_are_found_at_least_as_well_as_the_demo_promises(digits_run: DigitsRun) -> None:
    report = digits_run.report
    assert (report.stored, report.queries) == (1297, 500)
    quality = report.quality
    assert quality is not None
    assert quality.baseline is not None
    assert quality.mean_average_precision > 0.9
    assert quality.precision > 0.9
    assert quality.baseline > 0.9
    assert f"{quality.mean_average_precision:.4f}" in digits_run.said
    assert f"{quality.baseline:.4f}" in digits_run.said


def test_no_query_was_trained_on(digits_run: DigitsRun) -> None:
    folder = digits_run.output / "digits"
    names: dict[str, set[str]] = {}
    for part in ("database", "queries"):
        names[part] = {path.name for path in (folder / part).rglob("*.png")}
    assert len(names["database"]) == 1297
    assert len(names["queries"]) == 500
    assert names["database"].isdisjoint(names["queries"])
    counts = [len(list((folder / "queries" / str(digit)).iterdir())) for digit in range(10)]
    assert max(counts) - min(counts) <= 3


def test_the_measured_ranking_is_numpys(digits_run: DigitsRun) -> None:
    with connect(digits_run.url) as db:
        ids, words, labels = table(db, digits.NAME)
        found = db.search(
            digits_run.report.answers[3].words, k=None, radius=digits.BITS, stage="coarse"
        )
        far = distances(digits_run.report, db, 3, digits.BITS)
        order = np.lexsort((ids, far))
        assert [hit.image_id for hit in found.hits] == ids[order].tolist()
        assert [hit.distance for hit in found.hits] == far[order].tolist()
    relevant = np.array(labels) == digits_run.report.answers[3].label
    expected = metrics.average_precision(far, relevant)
    assert f"average precision {expected:.3f}" in digits_run.report.answers[3].title
    assert len(words) == 1297


def test_every_digit_and_the_worst_answers_are_shown(digits_run: DigitsRun) -> None:
    report = digits_run.report
    labels = [answer.label for answer in report.answers]
    assert labels[:10] == [str(digit) for digit in range(10)]
    assert len(labels) == 10 + digits.WORST
    worst = [float(answer.title.rpartition(" ")[2]) for answer in report.answers[10:]]
    assert worst == sorted(worst)
    assert worst[0] < 0.9
    for path in (report.sheet, report.page):
        assert path.is_file()
        assert path.name in digits_run.said
    assert report.answers[0].sql in digits_run.said
    with Image.open(report.sheet) as sheet:
        assert sheet.width > 1000


def test_the_sql_to_try_next_works(digits_run: DigitsRun) -> None:
    with psycopg.connect(digits_run.url) as client:
        rows = client.execute(digits_run.report.answers[0].sql.encode()).fetchall()
    assert len(rows) == 10
    assert all(row[3] == "0" for row in rows)


def test_the_stored_encoder_encodes_the_queries_again(digits_run: DigitsRun) -> None:
    from retrieval_db import encoders

    with connect(digits_run.url) as db:
        stored = db.encoder(digits.NAME)
        artifact = encoders.artifact(db.connection, stored)
    again = encoder.from_stored(stored.name, stored.config, artifact, device="cpu")
    files = [answer.file for answer in digits_run.report.answers if answer.file]
    queries, _ = steps.encode(again, files)
    assert [query.words for query in queries] == [a.words for a in digits_run.report.answers]


# The core alone


@pytest.mark.usefixtures("core_alone")
def test_without_the_extra_it_finds_copies_and_says_what_the_extra_adds(
    db: Database, tmp_path: Path
) -> None:
    said: list[str] = []
    report = demo.run(db, tmp_path / "out", say=said.append)
    text = "\n".join(said)
    assert "pip install 'retrieval-db[demo]'" in text
    assert "Without torch, sklearn" in text
    assert "copies, not similar content" in text
    assert report.quality is not None
    assert report.quality.mean_average_precision > 0.95
    assert report.stored == made.PICTURES * len(made.COPIES)
    first = report.answers[0]
    assert {hit.label for hit in first.result.hits[:4]} == {first.label}
    ids, _, _ = table(db, report.encoder)
    order = np.lexsort((ids, distances(report, db, 0, 64)))
    assert [hit.image_id for hit in first.result.hits] == ids[order[:10]].tolist()


@pytest.mark.usefixtures("core_alone")
def test_running_it_again_changes_nothing_and_elsewhere_moves_it(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(made, "PICTURES", 15)
    other = CodeSet(np.arange(8, dtype=np.uint8)[None], 64, ["mine.png"], encoder="mine")
    db.load(other)
    first = demo.run(db, tmp_path / "one", say=lambda line: None)
    before = table(db, first.encoder)
    said: list[str] = []
    again = demo.run(db, tmp_path / "one", say=said.append)
    assert any("60 were there already" in line for line in said)
    after = table(db, first.encoder)
    assert before[0].tolist() == after[0].tolist()
    assert before[1].tolist() == after[1].tolist()
    assert again.quality == first.quality

    demo.run(db, tmp_path / "two", say=said.append)
    assert any("60 codes of an earlier demo are replaced" in line for line in said)
    assert db.encoder(first.encoder).root == str(tmp_path / "two" / "made" / "database")
    assert len(table(db, first.encoder)[0]) == 60
    assert len(table(db, "mine")[0]) == 1


def test_what_is_missing_is_what_cannot_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "find_spec", lambda name: None if name == "torch" else object())
    assert demo.missing_packages() == ["torch"]


def test_an_output_that_is_a_file_is_refused(db: Database, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be made"):
        demo.run(db, tmp_path / "file", say=lambda line: None)


# The user's photos


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Fifteen photos in two folders, and a file that is none."""
    generator = np.random.default_rng(0)
    for number in range(15):
        folder = tmp_path / "album" / ("sea" if number < 7 else "hills")
        folder.mkdir(parents=True, exist_ok=True)
        made.draw(generator).save(folder / f"{number:02}.jpg")
    (tmp_path / "album" / "broken.jpg").write_bytes(b"no photo")
    return tmp_path / "album"


def checksum(folder: Path) -> str:
    """Of all files of a folder and their names."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        digest.update(str(path).encode() + (path.read_bytes() if path.is_file() else b""))
    return digest.hexdigest()


def test_photos_without_weights_are_searched_for_copies(
    db: Database, album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unavailable(*arguments: object, **options: object) -> None:
        raise EncoderUnavailable("The weights are not here.")

    monkeypatch.setattr(encoder, "create", unavailable)
    before = checksum(album)
    said: list[str] = []
    report = demo.run(db, tmp_path / "out", images=album, say=said.append)
    text = "\n".join(said)
    assert "The weights are not here." in text
    assert "not photos of similar content" in text
    assert "broken.jpg: not an image" in text
    assert report.stored == 15
    assert len(report.answers) == photos_demo.QUERIES
    for answer in report.answers:
        assert answer.file is not None
        assert answer.result.hits[0].distance == 0
    assert len({answer.file for answer in report.answers}) == photos_demo.QUERIES
    assert checksum(album) == before


def test_photos_with_a_backbone_are_searched_for_content(
    db: Database, album: Path, tmp_path: Path
) -> None:
    torch = pytest.importorskip("torch")
    torchvision = pytest.importorskip("torchvision")
    save_file = pytest.importorskip("safetensors.torch").save_file
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        save_file(torchvision.models.mobilenet_v2().state_dict(), tmp_path / "w.safetensors")
    said: list[str] = []
    report = demo.run(
        db,
        tmp_path / "out",
        images=album,
        weights=tmp_path / "w.safetensors",
        say=said.append,
        device="cpu",
    )
    assert "it finds similar content" in "\n".join(said)
    assert report.stored == 15
    stored = db.encoder(photos_demo.NAME)
    assert (stored.bits, stored.config["method"]) == (128, "itq")
    # Under 300 photos LSH takes over, and the demo says so.
    assert "too few for itq" in "\n".join(said)
    assert all(answer.result.hits[0].distance == 0 for answer in report.answers)


def test_a_folder_without_images_is_refused(db: Database, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no image file"):
        demo.run(db, tmp_path / "out", images=tmp_path / "empty", say=lambda line: None)
    with pytest.raises(UsageError, match="no file or folder"):
        demo.run(db, tmp_path / "out", images=tmp_path / "absent", say=lambda line: None)


def test_a_single_photo_is_refused(db: Database, album: Path, tmp_path: Path) -> None:
    """The folder that it lies in is not what was asked for."""
    one = next(album.rglob("*.jpg"))
    with pytest.raises(UsageError, match="is no folder"):
        demo.run(db, tmp_path / "out", images=one, say=lambda line: None)
    assert db.encoders() == []


def test_a_folder_of_broken_images_is_an_error(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        photos_demo, "choose", lambda *rest: (encoder.PerceptualHash(64, photos_demo.NAME), "")
    )
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "one.jpg").write_bytes(b"no photo")
    with pytest.raises(ImageError, match="None of the 1 files"):
        demo.run(db, tmp_path / "out", images=tmp_path / "bad", say=lambda line: None)
