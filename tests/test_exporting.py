"""What goes out comes back: every format, every column, every width; and only what was asked."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import retrieval_db
from retrieval_db import CodeSet, Query, codes, exporting
from retrieval_db.client import Database
from retrieval_db.errors import (
    FormatError,
    PermissionDenied,
    RetrievalError,
    UnknownEncoder,
    UsageError,
)
from retrieval_db.exporting import Restriction
from retrieval_db.interchange import Settings, joined, open_source, read_codes
from retrieval_db.interchange.csv_table import CsvWriter
from retrieval_db.interchange.npz_writer import NpzWriter
from retrieval_db.interchange.parquet import ParquetWriter
from tests import command, example

FORMATS = ("npz", "parquet", "csv")

texts = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=20
) | st.sampled_from(['a,"b"', "a\r\nb", "\ufeffa", " a ", "\t", "'", "\\N", "NULL", "猫", "=1+1"])
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@st.composite
def code_sets(draw: st.DrawFn) -> CodeSet:
    """Codes with everything that may belong to them, some of it here and there."""
    bits = draw(st.sampled_from(range(4, 257, 4)))
    paths = draw(st.lists(texts, unique=True, max_size=12))
    count = len(paths)

    def some(one: st.SearchStrategy[Any]) -> Any:
        column = st.lists(st.none() | one, min_size=count, max_size=count)
        return draw(st.none() | column)

    hashes = some(st.binary(min_size=32, max_size=32).filter(any))
    width = draw(st.integers(1, 5))
    number = st.floats(-65504, 65504, width=16)
    features = some(st.lists(number, min_size=width, max_size=width))
    metadata = some(st.dictionaries(texts, values, max_size=3))
    config = draw(st.none() | st.just('{"kind": "network", "mean": [0.5]}'))
    return CodeSet(
        example.random_codes("uniform", count, bits, draw(st.integers(0, 99))),
        bits,
        paths,
        labels=some(texts),
        content_sha256=None
        if hashes is None
        else np.frombuffer(b"".join(h or bytes(32) for h in hashes), np.uint8).reshape(-1, 32),
        features=None
        if features is None
        else np.array([f or [0.0] * width for f in features], np.float16).reshape(-1, width),
        has_feature=None if features is None else np.array([bool(f) for f in features], np.bool_),
        metadata=None if metadata is None else [m and json.dumps(m) for m in metadata],
        root=draw(st.none() | st.just("/photos")),
        config=config,
        artifact=draw(st.none() | st.binary(max_size=30)) if config else None,
        fingerprint=draw(st.none() | st.just("ab" * 32)),
    )


def stored(db: Database, encoder: str) -> list[tuple[Any, ...]]:
    """Everything that the tables hold of an encoder's images, in their order."""
    return db.connection.execute(
        "SELECT path, label, content_sha256, metadata::text, code_1, code_2, code_3, code_4, "
        "feature::text FROM images LEFT JOIN image_features ON image_id = id "
        "WHERE encoder_id = (SELECT id FROM encoders WHERE name = %s) ORDER BY id",
        [encoder],
    ).fetchall()


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with retrieval_db.connect(database_url) as found:
        yield found


@pytest.mark.parametrize("kind", FORMATS)
def test_round_trips_are_exact(db: Database, tmp_path: Path, kind: str) -> None:
    """Loaded, written, loaded under another name: the two are equal to the last bit."""
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    number = 0

    @settings(deadline=None, max_examples=25, suppress_health_check=[HealthCheck.too_slow])
    @given(code_sets())
    def round_trip(items: CodeSet) -> None:
        nonlocal number
        number += 1
        db.load(items, encoder=f"before {number}")
        file = tmp_path / f"codes.{kind}"
        report = db.export(file, encoder=f"before {number}")
        assert (report.rows, report.format) == (len(items), kind)
        source = open_source(file)
        if not len(items) and kind == "csv":
            return
        db.load(source, encoder=f"after {number}")
        before, after = (db.encoder(f"{when} {number}") for when in ("before", "after"))
        assert stored(db, before.name) == stored(db, after.name)
        assert before.bits == after.bits
        if kind != "csv":
            for name in ("fingerprint", "config", "root", "has_artifact"):
                assert getattr(before, name) == getattr(after, name), name
        db.remove_encoder(before.name)
        db.remove_encoder(after.name)

    round_trip()


def test_hex_digits_are_not_taken_for_bits(db: Database, tmp_path: Path) -> None:
    """Codes whose digits are all 0 or 1 come back as long as they were."""
    items = CodeSet(np.array([[0x00] * 8, [0x11] * 8], np.uint8), 64, ["black", "white"])
    db.load(items, encoder="blank")
    db.export(tmp_path / "blank.csv", encoder="blank")
    found = read_codes(tmp_path / "blank.csv")
    assert (found.bits, found.codes.tolist()) == (64, items.codes.tolist())


@pytest.mark.parametrize("kind", ["npz", "parquet"])
def test_a_width_of_its_own(db: Database, tmp_path: Path, kind: str) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    example.filled(db.connection, "uniform", 3, 64)
    file = tmp_path / f"codes.{kind}"
    db.export(file, encoder="example")
    with pytest.raises(RetrievalError, match="leave --bits out"):
        list(open_source(file, Settings(bits=48)).batches(10))
    if kind == "parquet":
        (found,) = open_source(file, Settings(bits=64)).batches(10)
        assert found.bits == 64


@pytest.mark.parametrize("kind", FORMATS)
def test_more_rows_than_a_batch(
    db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    if kind == "parquet":
        pytest.importorskip("pyarrow")
    monkeypatch.setattr(exporting, "BATCH", 37)
    items = example.filled(db.connection, "clustered", 200, 64)
    seen: list[int] = []
    db.export(tmp_path / f"codes.{kind}", progress=seen.append)
    assert seen == [37] * 5 + [15]
    found = joined(list(open_source(tmp_path / f"codes.{kind}").batches(50)))
    assert (found.codes == items.codes).all()
    assert list(found.paths) == list(items.paths)
    assert list(found.labels or ()) == list(items.labels or ())
    assert found.encoder == "example"


class TestRestricted:
    """By label, metadata and searches."""

    @pytest.fixture
    def items(self, db: Database) -> CodeSet:
        return example.filled(db.connection, "clustered", 300, 64)

    def export(self, db: Database, folder: Path, **only: Any) -> list[str]:
        db.export(folder / "codes.npz", only=Restriction(**only))
        return list(retrieval_db.read_npz(folder / "codes.npz").paths)

    def test_labels(self, db: Database, tmp_path: Path, items: CodeSet) -> None:
        assert items.labels is not None
        wanted = [
            path
            for path, label in zip(items.paths, items.labels, strict=True)
            if label in ("label 2", "label 5")
        ]
        assert self.export(db, tmp_path, labels=["label 5", "label 2"]) == wanted
        assert self.export(db, tmp_path, labels=["none has it"]) == []

    def test_metadata(self, db: Database, tmp_path: Path, items: CodeSet) -> None:
        db.connection.execute("""UPDATE images SET metadata = '{"year": 2024}' WHERE id % 10 = 0""")
        rows = db.connection.execute("SELECT path FROM images WHERE id % 10 = 0 ORDER BY id")
        wanted = [path for (path,) in rows]
        assert self.export(db, tmp_path, metadata={"year": 2024}) == wanted

    def test_searches(self, db: Database, tmp_path: Path, items: CodeSet) -> None:
        asked = [3, 17]
        queries = [Query(codes.words_of(items.codes[row], 64)) for row in asked]
        nearest = [example.nearest(items, items.codes[row], 9) for row in asked]
        wanted = dict.fromkeys(path for hits in nearest for path, _ in hits)
        found = self.export(db, tmp_path, queries=queries, k=9)
        assert found == list(wanted)
        within = example.nearest(items, items.codes[3], None, radius=12)
        found = self.export(db, tmp_path, queries=queries[:1], k=None, radius=12)
        assert found == [path for path, _ in within]
        report = db.export(tmp_path / "a.npz", only=Restriction(queries=queries))
        assert (report.exact, db.export(tmp_path / "a.npz").exact) == (True, None)

    def test_the_command(
        self, db: Database, tmp_path: Path, items: CodeSet, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("RETRIEVAL_DB_URL", db.target.url)
        file = tmp_path / "near.csv"
        outcome = command.succeed("export", file, "--path", items.paths[3], "-k", "5")
        assert outcome.out.startswith(f"{file}: 5 codes of example, csv, in ")
        lines = file.read_text().splitlines()
        assert lines[0] == "path,code,label,encoder"
        assert [line.split(",")[0] for line in lines[1:]] == [
            path for path, _ in example.nearest(items, items.codes[3], 5)
        ]
        text = codes.to_hex(items.codes[3], 64)
        outcome = command.succeed(
            "export", tmp_path / "b", "--format", "npz", "--code", text, "--radius", "0",
            "--label", "label 3", "--json",
        )  # fmt: skip
        assert json.loads(outcome.out) | {"seconds": 0} == {
            "encoder": "example", "path": str(tmp_path / "b"), "format": "npz", "rows": 1,
            "exact": True, "seconds": 0,
        }  # fmt: skip
        assert command.succeed("export", tmp_path / "c.npz").out.startswith(
            f"{tmp_path / 'c.npz'}: 300 codes"
        )

    @pytest.mark.parametrize(
        ("code", "arguments", "message"),
        [
            (2, ["a.xml"], "end it with .npz, .parquet or .csv"),
            (2, ["a.csv", "-k", "3"], "go with --id, --path or --code"),
            (2, ["a.csv", "--metadata", "x"], "--metadata is a JSON object"),
            (2, ["nowhere/a.csv"], "Cannot write"),
            (1, ["a.csv", "-e", "other"], "no encoder 'other'"),
            (1, ["a.csv", "--path", "other"], "No image"),
            (2, ["a.csv", "--code", "00"], "--code 00: A code of 64 bits"),
        ],
    )
    def test_wrong_usage(
        self, db: Database, items: CodeSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
        code: int, arguments: list[str], message: str,
    ) -> None:  # fmt: skip
        monkeypatch.setenv("RETRIEVAL_DB_URL", db.target.url)
        monkeypatch.chdir(tmp_path)
        outcome = command.run("export", *arguments)
        assert message in outcome.err
        assert outcome.code == code
        assert list(tmp_path.iterdir()) == []


class TestTransaction:
    """One snapshot, nothing written, nothing half done."""

    def test_rows_that_come_meanwhile_stay_out(
        self, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(exporting, "BATCH", 10)
        items = example.filled(db.connection, "uniform", 50, 64)
        changed = False

        def change(rows: int) -> None:
            nonlocal changed
            if not changed:
                changed = True
                with example.connect(db.target.url) as other:
                    other.execute("UPDATE images SET code_1 = 0, path = 'new ' || path")
                    other.execute("DELETE FROM images WHERE id % 2 = 0")

        db.export(tmp_path / "a.npz", progress=change)
        found = retrieval_db.read_npz(tmp_path / "a.npz")
        assert list(found.paths) == list(items.paths)
        assert (found.codes == items.codes).all()

    def test_it_only_reads(self, db: Database, tmp_path: Path) -> None:
        example.filled(db.connection, "uniform", 50, 64)

        def write(rows: int) -> None:
            with pytest.raises(Exception, match="read-only transaction"):
                db.connection.execute("DELETE FROM images")
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            db.export(tmp_path / "a.csv", progress=write)
        assert list(tmp_path.iterdir()) == []
        assert db.export(tmp_path / "a.csv").rows == 50

    def test_a_reader_may(self, db: Database, tmp_path: Path) -> None:
        example.filled(db.connection, "uniform", 50, 64)
        db.connection.execute("SET default_transaction_read_only = on")
        assert db.export(tmp_path / "a.csv").rows == 50
        with pytest.raises(PermissionDenied):
            db.create_legacy_view()

    def test_errors(self, db: Database, tmp_path: Path) -> None:
        with pytest.raises(UnknownEncoder):
            db.export(tmp_path / "a.npz")
        example.filled(db.connection, "uniform", 5, 64)
        with pytest.raises(UsageError, match=r"\.npz, \.parquet or \.csv"):
            db.export(tmp_path / "a.txt")
        with pytest.raises(FormatError, match="Cannot write"):
            db.export(tmp_path / "no" / "a.npz")

    @pytest.mark.parametrize("kind", FORMATS)
    def test_a_full_disk(
        self, db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
    ) -> None:
        example.filled(db.connection, "uniform", 5, 64)
        writers = {"npz": NpzWriter, "csv": CsvWriter, "parquet": ParquetWriter}

        def full(self: object, batch: CodeSet) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(writers[kind], "write", full)
        with pytest.raises(FormatError, match=r"Cannot write .*: No space left on device\."):
            db.export(tmp_path / f"a.{kind}")
        assert list(tmp_path.iterdir()) == []

    def test_without_features(self, db: Database, tmp_path: Path) -> None:
        items = CodeSet(
            np.zeros((2, 8), np.uint8), 64, ["a", "b"], features=np.ones((2, 3)), encoder="x"
        )
        db.load(items)
        db.export(tmp_path / "a.npz", features=False)
        assert retrieval_db.read_npz(tmp_path / "a.npz").features is None
