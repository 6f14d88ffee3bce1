"""Codes from memory and from files: whole batches, each path once, or a clear refusal."""

from __future__ import annotations

import io
import json
import signal
import threading
import time
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from psycopg.conninfo import make_conninfo

import retrieval_db
from retrieval_db import (
    CodeSet,
    codes,
    encoders,
    exporting,
    layouts,
    loading,
    read_npz,
    texts,
    write_npz,
)
from retrieval_db.database import Connection, open_connection
from retrieval_db.errors import (
    ConnectionFailed,
    ConnectionLost,
    EncoderConflict,
    FormatError,
    InvalidCode,
    MissingExtension,
    RetrievalError,
    UsageError,
    WrongWidth,
)
from retrieval_db.interchange import npz_writer, open_source, replacing
from retrieval_db.interchange.npz import NpzSource
from retrieval_db.loading import bulk, crew, writer
from tests import example, postgres


def complete_set(rows: int = 40, bits: int = 64) -> CodeSet:
    """Codes with everything that can belong to them."""
    random = np.random.default_rng(7)
    return replace(
        example.code_set(example.random_codes("uniform", rows, bits), bits),
        paths=[f"/photos/äöü {row}/猫.jpg" for row in range(rows)],
        labels=[None if row % 3 == 0 else f"label {row % 3}" for row in range(rows)],
        content_sha256=random.integers(0, 256, (rows, 32), dtype=np.uint8),
        features=random.normal(size=(rows, 12)).astype(np.float32),
        config=json.dumps({"kind": "network"}),
        artifact=bytes(range(256)),
        root="/photos",
    )


GOOD: dict[str, Any] = {
    "codes": np.zeros((2, 2), dtype=np.uint8),
    "bits": 12,
    "paths": np.array(["a", "b"]),
}


def rows_of(connection: Connection, columns: str = "path, code_1, code_2, code_3, code_4") -> Any:
    return connection.execute(f"SELECT {columns} FROM images ORDER BY id").fetchall()


def features_of(connection: Connection) -> dict[str, list[float]]:
    found = connection.execute(
        "SELECT path, feature::real[] FROM images JOIN image_features ON image_id = id"
    )
    return {path: np.array(feature, dtype=np.float16).tolist() for path, feature in found}


class TestFile:
    """What is written to an npz is read again; what else might be in one is refused."""

    @pytest.mark.parametrize("bits", [4, 12, 64, 252, 256])
    @pytest.mark.parametrize("rows", [0, 1, 40])
    def test_round_trip(self, tmp_path: Path, rows: int, bits: int) -> None:
        items = complete_set(rows, bits)
        write_npz(tmp_path / "codes.npz", items)
        found = read_npz(tmp_path / "codes.npz")
        for name in ("codes", "content_sha256", "features"):
            assert (getattr(found, name) == getattr(items, name)).all(), name
        for name in ("bits", "encoder", "fingerprint", "config", "artifact", "root"):
            assert getattr(found, name) == getattr(items, name), name
        assert list(found.paths) == items.paths
        assert list(found.labels or [""] * rows) == [label or "" for label in items.labels or ()]

    @pytest.mark.parametrize("name", ["paths", "labels", "metadata"])
    def test_a_long_text_does_not_widen_the_others(self, tmp_path: Path, name: str) -> None:
        texts = [str(row) for row in range(3000)]
        texts[1500] = json.dumps("猫" * 300_000, ensure_ascii=False)
        column: dict[str, Any] = {name: texts}
        items = replace(example.code_set(np.zeros((3000, 2), np.uint8), 16), **column)
        with npz_writer(tmp_path / "codes.npz") as writer:
            for batch in items.batches(700):
                writer.write(batch)
        assert getattr(read_npz(tmp_path / "codes.npz"), name) == texts
        parts = list(NpzSource(tmp_path / "codes.npz").batches(400))
        assert [text for part in parts for text in getattr(part, name)] == texts
        with np.load(tmp_path / "codes.npz") as arrays:
            offsets, utf8 = arrays[f"{name}_offsets"], arrays[f"{name}_utf8"].tobytes()
            assert name not in arrays
        assert [utf8[start:end].decode() for start, end in pairwise(offsets)] == texts

    @pytest.mark.parametrize(
        ("offsets", "utf8", "message"),
        [
            ([0, 1], b"ab", "2 codes, but 1 paths"),
            ([1, 1, 2], b"ab", "must begin with 0"),
            ([0, 2, 1], b"ab", "must not fall"),
            ([0, 1, 3], b"ab", "ends in the middle"),
            ([0, 1, 1 << 60], b"ab", "ends in the middle"),
            ([0, 1, 2], b"abc", "more data"),
            ([0, 1, 2], b"a\xff", "utf-8"),
            ([0.0, 1, 2], b"ab", "must be int64"),
            ([], b"ab", "must begin with 0"),
        ],
    )
    def test_wrong_offsets(
        self, tmp_path: Path, offsets: list[int], utf8: bytes, message: str
    ) -> None:
        arrays = {name: GOOD[name] for name in ("codes", "bits")}
        texts: dict[str, Any] = {"paths_utf8": np.frombuffer(utf8, np.uint8)}
        kind = np.int64 if all(isinstance(at, int) for at in offsets) else np.float64
        texts["paths_offsets"] = np.array(offsets, kind)
        np.savez(tmp_path / "codes.npz", **arrays, **texts)
        with pytest.raises(FormatError, match=message):
            read_npz(tmp_path / "codes.npz")

    def test_only_what_is_required(self, tmp_path: Path) -> None:
        items = CodeSet(np.zeros((2, 8), dtype=np.uint8), 64, ["a", "b"])
        write_npz(tmp_path / "codes.npz", items)
        found = read_npz(tmp_path / "codes.npz")
        assert (found.labels, found.features, found.encoder, found.config) == (None,) * 4

    def test_forms_that_other_programs_write(self, tmp_path: Path) -> None:
        digests = [bytes([row] * 32) for row in range(3)]
        np.savez_compressed(
            tmp_path / "codes.npz",
            codes=np.zeros((3, 2), dtype=np.uint8),
            bits=np.array([12]),
            paths=np.array(["ä".encode(), b"b", b"c"]),
            labels=np.array([3, 1, 2]),
            content_sha256=np.array([digest.hex() for digest in digests]),
            features=np.ones((3, 4), dtype=np.float16),
            encoder=np.array(["mine"]),
        )
        found = read_npz(tmp_path / "codes.npz")
        assert (found.bits, found.encoder) == (12, "mine")
        assert (found.paths, found.labels) == (["ä", "b", "c"], ["3", "1", "2"])
        assert found.content_sha256 is not None
        assert [row.tobytes() for row in found.content_sha256] == digests

    def test_the_config_comes_from_the_artifact(self, tmp_path: Path) -> None:
        checkpoint = pytest.importorskip("retrieval_db.encoder.checkpoint")
        pytest.importorskip("safetensors")
        items = replace(complete_set(), config=None)
        artifact = checkpoint.pack("mine", {"kind": "network", "bits": 64}, {"a": np.ones(3)})
        write_npz(tmp_path / "codes.npz", replace(items, artifact=artifact))
        found = read_npz(tmp_path / "codes.npz")
        assert json.loads(found.config or "") == {"kind": "network", "bits": 64}

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"codes": None}, FormatError, "lacks codes"),
            ({"bits": None, "paths": None}, FormatError, "lacks bits, paths"),
            ({"codes": np.zeros((2, 2))}, InvalidCode, "uint8 .*float64"),
            ({"codes": np.zeros(2, dtype=np.uint8)}, InvalidCode, r"uint8 \[N, 2\]"),
            ({"codes": np.zeros((2, 3), dtype=np.uint8)}, WrongWidth, "take 2 bytes"),
            ({"codes": np.full((2, 2), 1, dtype=np.uint8)}, InvalidCode, "beyond the 12 bits"),
            ({"codes": np.zeros((3, 2), dtype=np.uint8)}, FormatError, "3 codes, but 2 paths"),
            ({"bits": 13}, InvalidCode, "multiple of 4"),
            ({"bits": 12.0}, FormatError, "bits must be one integer"),
            ({"bits": np.array([12, 12])}, FormatError, "bits must be one integer"),
            ({"paths": np.array([1, 2])}, FormatError, "paths must be texts"),
            ({"paths": np.array("a")}, FormatError, "paths must be texts"),
            ({"paths": np.array([b"\xff", b"a"])}, FormatError, "UTF-8"),
            ({"paths": np.array(["a", None], dtype=object)}, FormatError, "pickled objects"),
            ({"labels": np.array([0.5, 1])}, FormatError, "labels must be texts"),
            ({"labels": np.array(["a"])}, FormatError, "2 codes, but 1 labels"),
            ({"content_sha256": np.zeros((2, 31), np.uint8)}, FormatError, r"uint8 \[N, 32\]"),
            ({"content_sha256": np.zeros((2, 32))}, FormatError, "content_sha256"),
            ({"content_sha256": np.array(["ab", "cd"])}, FormatError, "64 hex digits"),
            ({"content_sha256": np.array(["xy", "cd"])}, FormatError, "not hex"),
            ({"features": np.zeros(2)}, FormatError, "features must be floats"),
            ({"features": np.zeros((2, 3), dtype=int)}, FormatError, "features must be floats"),
            ({"features": np.zeros((2, 0))}, FormatError, "features must be floats"),
            ({"features": np.zeros((2, 16_001))}, FormatError, "D up to 16000"),
            ({"features": np.array([[1.0], [np.nan]])}, FormatError, "NaN"),
            ({"features": np.array([[1.0], [np.inf]])}, FormatError, "infinity"),
            ({"features": np.array([[1.0], [-7e4]])}, FormatError, "half precision"),
            ({"encoder": np.array(["a", "b"])}, FormatError, "encoder must be one text"),
            ({"encoder": 3}, FormatError, "encoder must be texts"),
            ({"encoder_artifact": np.zeros(3)}, FormatError, "must be uint8"),
            ({"encoder_artifact": np.zeros(3, np.uint8)}, FormatError, "safetensors"),
            ({"root": np.array("x" * (1 << 23))}, FormatError, "root has 33,554,432 bytes"),
            (
                {"features": np.zeros((2, 1)), "has_feature": np.ones((2, 2), bool)},
                FormatError,
                "has_feature must be booleans",
            ),
            (
                {"paths": np.array([b"\xff\xff\xff\xff"] * 2).view("<U1")},
                FormatError,
                "plain arrays",
            ),
        ],
    )
    def test_wrong_arrays(
        self, tmp_path: Path, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        arrays = {k: v for k, v in (GOOD | change).items() if v is not None}
        np.savez(tmp_path / "codes.npz", **arrays)
        with pytest.raises(error, match=message) as caught:
            read_npz(tmp_path / "codes.npz")
        assert str(tmp_path / "codes.npz") in str(caught.value)

    def test_files_that_are_no_npz(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **GOOD)
        whole = buffer.getvalue()
        np.save(tmp_path / "one.npy", np.zeros(3))
        contents = {
            "empty.npz": b"",
            "text.npz": b"codes",
            "half.npz": whole[: len(whole) // 2],
            "one.npz": (tmp_path / "one.npy").read_bytes(),
        }
        damaged = bytearray(whole)
        damaged[60:100] = bytes(40)
        contents["damaged.npz"] = bytes(damaged)
        for name, content in contents.items():
            (tmp_path / name).write_bytes(content)
            with pytest.raises(FormatError, match=name):
                read_npz(tmp_path / name)
        with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
            archive.writestr("codes", "these are no arrays")
        with pytest.raises(FormatError, match="lacks codes, bits, paths"):
            read_npz(tmp_path / "other.npz")
        with pytest.raises(FormatError, match="no file"):
            read_npz(tmp_path / "nowhere.npz")
        with pytest.raises(FormatError):
            read_npz(tmp_path)

    @pytest.mark.parametrize(
        "header",
        ["(((", f"{{'descr': '|u1', 'fortran_order': True, 'shape': ({1 << 80}, {1 << 80})}}"],
    )
    def test_odd_headers(self, tmp_path: Path, header: str) -> None:
        with zipfile.ZipFile(tmp_path / "codes.npz", "w") as archive:
            size = len(header).to_bytes(2, "little")
            archive.writestr("codes.npy", b"\x93NUMPY\1\0" + size + header.encode())
        with pytest.raises(FormatError, match="not an npz of plain arrays"):
            read_npz(tmp_path / "codes.npz")

    def test_damaged_lzma(self, tmp_path: Path) -> None:
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_LZMA) as archive:
            archive.writestr("codes.npy", bytes(1000))
        damaged = bytearray(buffer.getvalue())
        damaged[60:65] = b"\xff" * 5
        (tmp_path / "codes.npz").write_bytes(damaged)
        with pytest.raises(FormatError, match="not an npz of plain arrays: Corrupt"):
            read_npz(tmp_path / "codes.npz")

    def test_a_file_is_written_whole_or_not_at_all(self, tmp_path: Path) -> None:
        items = complete_set()
        write_npz(tmp_path / "codes.npz", items)
        before = (tmp_path / "codes.npz").read_bytes()
        with pytest.raises(FileNotFoundError), replacing(tmp_path / "codes.npz") as temporary:
            temporary.with_name("half of a file is written").read_bytes()
        assert (tmp_path / "codes.npz").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"]
        for place in (tmp_path / "no" / "codes.npz", tmp_path):
            with pytest.raises(FormatError, match="Cannot write"):
                write_npz(place, items)


class TestRows:
    """What is loaded stands in the tables."""

    def test_everything(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            report = db.load(items)
            assert (report.encoder, report.inserted, report.updated) == ("example", 40, 0)
            stored = db.encoder()
            assert (stored.bits, stored.feature_dim, stored.root) == (64, 12, "/photos")
            assert encoders.artifact(db.connection, stored) == items.artifact
            found = rows_of(db.connection, "path, label, content_sha256, bits")
            assert items.labels is not None
            assert items.content_sha256 is not None
            assert items.features is not None
            assert found == [
                (path, label, digest.tobytes(), 64)
                for path, label, digest in zip(
                    items.paths, items.labels, items.content_sha256, strict=True
                )
            ]
            features = features_of(db.connection)
            wanted = items.features.astype(np.float16).tolist()
            assert [features[path] for path in items.paths] == wanted

    def test_the_longest_texts(self, database_url: str) -> None:
        """Of random digits: what PostgreSQL can compress would fit in any case."""
        digits = np.random.default_rng(2).bytes(texts.LONGEST // 2).hex()
        items = complete_set(2).take(np.arange(1))
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, paths=[digits], labels=[digits]))
            assert rows_of(db.connection, "path, label") == [(digits, digits)]

    def test_no_rows(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            assert db.load(complete_set(0)).inserted == 0
            assert [encoder.name for encoder in db.encoders()] == ["example"]

    @pytest.mark.parametrize("change", ["fingerprint", "bits", "rows"])
    @pytest.mark.parametrize("kind", ["npz", "parquet"])
    def test_a_file_that_is_replaced_before_it_is_loaded(
        self, database_url: str, tmp_path: Path, kind: str, change: str
    ) -> None:
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        items = complete_set()
        other = {
            "fingerprint": replace(items, fingerprint="ab" * 32),
            "bits": complete_set(bits=128),
            "rows": items.take(slice(0, 30)),
        }
        file = tmp_path / "codes"
        with retrieval_db.connect(database_url) as db:
            for codes_of_file in (items, other[change]):
                with exporting.WRITERS[kind](file) as writer:
                    writer.write(codes_of_file)
                if codes_of_file is items:
                    source = open_source(file)
                    surveyed = loading.survey(source)
            with pytest.raises(FormatError, match="has changed since it was looked through"):
                db.load(source, surveyed=surveyed)
            assert len(rows_of(db.connection)) == (30 if change == "rows" else 0)

    def test_the_name_overrides_the_files(self, database_url: str, tmp_path: Path) -> None:
        write_npz(tmp_path / "codes.npz", replace(complete_set(), encoder=None))
        with retrieval_db.connect(database_url) as db:
            with pytest.raises(UsageError, match="--encoder NAME"):
                db.load(tmp_path / "codes.npz")
            assert db.encoders() == []
            assert db.load(tmp_path / "codes.npz", encoder="mine").encoder == "mine"

    @pytest.mark.parametrize("features", [True, False])
    def test_upsert(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch, features: bool
    ) -> None:
        """The last of equal paths counts, in one batch, across batches and across loads."""
        monkeypatch.setattr(bulk, "BATCH", 10)
        items = complete_set(50)
        names = [f"{row % 7 if row < 25 else row}.jpg" for row in range(50)]
        items = replace(items, paths=names, features=items.features if features else None)
        last = {name: row for row, name in enumerate(names)}
        with retrieval_db.connect(database_url) as db:
            report = db.load(items)
            assert report.inserted == len(last)
            again = db.load(items)
            assert again.inserted == 0
            found = rows_of(db.connection, "path, content_sha256")
            assert items.content_sha256 is not None
            assert dict(found) == {
                name: items.content_sha256[row].tobytes() for name, row in last.items()
            }
            assert len(found) == len(last)
            if items.features is not None:
                stored = features_of(db.connection)
                assert stored == {
                    name: items.features[row].astype(np.float16).tolist()
                    for name, row in last.items()
                }

    def test_a_label_or_hash_that_is_not_given_stays(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            before = rows_of(db.connection, "id, path, label, content_sha256")
            db.load(replace(items, labels=None, content_sha256=None))
            assert rows_of(db.connection, "id, path, label, content_sha256") == before

    def test_a_code_that_changes_without_its_hash_loses_it(self, database_url: str) -> None:
        """It came from another content; `index` then looks again."""
        items = complete_set()
        changed = items.codes.copy()
        changed[:5] ^= 1
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            db.load(replace(items, codes=changed, content_sha256=None))
            found = dict(rows_of(db.connection, "path, content_sha256"))
            assert [path for path, sha256 in found.items() if sha256 is None] == items.paths[:5]

    def test_a_code_that_changes_without_its_feature_loses_it(self, database_url: str) -> None:
        items = complete_set()
        changed = items.codes.copy()
        changed[:5] ^= 1
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            db.load(replace(items, codes=changed, features=None))
            assert set(features_of(db.connection)) == set(items.paths[5:])

    def test_features_are_sent_in_parts(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """New rows and stored ones; some have no feature, and one part none at all."""
        monkeypatch.setattr(writer, "FEATURES_AT_ONCE", 7)
        items = complete_set()
        assert items.features is not None
        there = np.arange(len(items)) % 3 > 0
        there[7:14] = False
        stored = items.features.astype(np.float16).tolist()
        wanted = {items.paths[row]: stored[row] for row in np.flatnonzero(there).tolist()}
        with retrieval_db.connect(database_url) as db:
            for _ in range(2):
                db.load(replace(items, has_feature=there))
                assert features_of(db.connection) == wanted

    def test_progress_counts_rows(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "BATCH", 16)
        seen: list[int] = []
        with retrieval_db.connect(database_url) as db:
            db.load(complete_set(), progress=seen.append)
        assert seen == [16, 16, 8]


class TestRefused:
    """Nothing is written of what cannot be loaded whole."""

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            ({"fingerprint": "another"}, EncoderConflict, "Give this one another name"),
            ({"features": np.ones((40, 5))}, WrongWidth, "12"),
            ({"root": "/elsewhere"}, UsageError, "relative to /photos, not relative to /elsewhere"),
            ({"config": "{"}, FormatError, "encoder_config is not JSON"),
            ({"config": "[1]"}, FormatError, "encoder_config is not a JSON object"),
            ({"paths": ["a"] * 39 + [""]}, FormatError, "without a path"),
            ({"paths": ["a"] * 39 + ["a\0b"]}, FormatError, "zero byte"),
            ({"paths": ["a"] * 39 + ["a\udce9"]}, FormatError, "not UTF-8"),
            ({"labels": ["a"] * 39 + ["a\0b"]}, FormatError, "zero byte"),
            ({"paths": ["a"] * 39 + ["é" * 1301]}, FormatError, "path 'é.* has 2,602 bytes"),
            ({"labels": ["a"] * 39 + ["a" * 4000]}, FormatError, "label 'a.* has 4,000 bytes"),
        ],
    )
    def test_into_an_encoder_that_has_codes(
        self, database_url: str, change: dict[str, Any], error: type[Exception], message: str
    ) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            before = rows_of(db.connection), db.encoder()
            different = replace(items, codes=items.codes ^ np.uint8(1), **change)
            with pytest.raises(error, match=message):
                db.load(different)
            assert (rows_of(db.connection), db.encoder()) == before

    def test_another_width(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            db.load(complete_set(bits=64))
            for fingerprint in ("fingerprint of example", None):
                with pytest.raises(WrongWidth, match="64 bits, not 128"):
                    db.load(replace(complete_set(bits=128), fingerprint=fingerprint))
            assert len(rows_of(db.connection)) == 40

    def test_bad_text_leaves_no_encoder_behind(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            with pytest.raises(FormatError):
                db.load(replace(complete_set(), paths=["a"] * 39 + [""]))
            assert db.encoders() == []

    def test_features_without_pgvector(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.connection.execute("DROP TABLE image_features CASCADE")
            with pytest.raises(MissingExtension, match="--no-features"):
                db.load(items)
            assert db.encoders() == []
            assert db.load(items, features=False).inserted == 40
            found = db.search(items.codes[3], k=1)
            assert (found.stage, found.hits[0].path) == ("coarse", items.paths[3])

    def test_a_role_that_may_only_read(self, cluster: postgres.Cluster, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            db.connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(RetrievalError, match="refused"):
                db.load(complete_set())


class TestEncoderIsCompleted:
    """Codes may come first, and what made them later."""

    def test_with_its_weights(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, config=None, artifact=None, features=None))
            assert not db.encoder().has_artifact
            db.load(items)
            stored = db.encoder()
            assert (stored.has_artifact, stored.feature_dim) == (True, 12)
            assert stored.config == {"kind": "network"}
            assert len(features_of(db.connection)) == 40

    def test_with_its_fingerprint(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, fingerprint=None, artifact=None, config=None))
            db.load(items)
            assert db.encoder().fingerprint == items.fingerprint
            assert db.encoder().has_artifact
            with pytest.raises(EncoderConflict):
                db.load(replace(items, fingerprint="another"))
            db.load(replace(items, fingerprint=None))

    def test_with_its_features(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, features=None))
            db.load(replace(items, fingerprint=None))
            assert db.encoder().feature_dim == 12
            with pytest.raises(WrongWidth, match="Features of 5 dimensions"):
                db.load(replace(items, features=np.ones((40, 5), dtype=np.float32)))


class TestInterrupted:
    """Whole batches stay, and the same load continues."""

    def test_an_exception_between_batches(
        self, database_url: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        items = complete_set()

        def stop(rows: int) -> None:
            raise KeyboardInterrupt

        with retrieval_db.connect(database_url) as db:
            with pytest.raises(KeyboardInterrupt):
                db.load(items, progress=stop)
            assert len(rows_of(db.connection)) == 10
            report = db.load(items)
            assert (report.inserted, report.updated) == (30, 10)

    def test_the_server_is_killed(
        self, private_cluster: postgres.Cluster, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 100)
        items = complete_set(450)
        batches = 0

        def kill(rows: int) -> None:
            nonlocal batches
            batches += 1
            if batches == 2:
                private_cluster.stop(signal.SIGKILL)

        with private_cluster.database(private_cluster.template()) as url:
            with (
                retrieval_db.connect(url) as db,
                pytest.raises(ConnectionLost, match="run the same command again"),
            ):
                db.load(items, progress=kill)
            with pytest.raises(ConnectionFailed, match="that the server runs"):
                open_connection(url)
            restart(private_cluster)
            with retrieval_db.connect(url) as db:
                kept = len(rows_of(db.connection))
                assert kept % 100 == 0
                report = db.load(items)
                assert (report.inserted, report.updated) == (450 - kept, kept)
                assert sorted(row[0] for row in rows_of(db.connection)) == sorted(items.paths)
                assert len(features_of(db.connection)) == 450

    def test_the_connection_is_ended(self, database_url: str) -> None:
        items = complete_set()
        with retrieval_db.connect(database_url) as db, example.connect(database_url) as other:
            pid = db.connection.info.backend_pid
            other.execute("SELECT pg_terminate_backend(%s)", [pid])
            with pytest.raises(ConnectionLost):
                db.load(items)
        with retrieval_db.connect(database_url) as db:
            assert db.load(items).inserted == 40


def restart(cluster: postgres.Cluster) -> None:
    """Start again after a kill: its children go a little later than the server itself."""
    for _ in range(100):
        try:
            cluster.start()
        except RuntimeError:
            time.sleep(0.1)
        else:
            return
    cluster.start()


@pytest.mark.parametrize("features", [True, False])
def test_loaders_at_once(
    database_url: str, monkeypatch: pytest.MonkeyPatch, features: bool
) -> None:
    """Two clients write the same paths in opposite orders: no error, each path once."""
    monkeypatch.setattr(bulk, "BATCH", 50)
    items = complete_set(600)
    if not features:
        items = replace(items, features=None)
    orders = [np.arange(600), np.arange(600)[::-1], np.random.default_rng(1).permutation(600)]
    start = threading.Barrier(len(orders))
    failures: list[BaseException] = []

    def work(order: Any) -> None:
        try:
            with retrieval_db.connect(database_url) as db:
                start.wait()
                for _ in range(2):
                    db.load(items.take(order))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=[order]) for order in orders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with retrieval_db.connect(database_url) as db:
        assert sorted(row[0] for row in rows_of(db.connection)) == sorted(items.paths)
        assert len(features_of(db.connection)) == (600 if features else 0)


class TestSideBySide:
    """Several writers of one load leave what one would leave."""

    @pytest.fixture(autouse=True)
    def small_batches(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        monkeypatch.setattr(layouts, "BULK", 20)
        monkeypatch.setattr(crew, "workers", lambda: 4)

    @pytest.mark.parametrize("features", [True, False])
    def test_rows_in_order(self, database_url: str, features: bool) -> None:
        items = complete_set(205)
        items = items if features else replace(items, features=None)
        with retrieval_db.connect(database_url) as db:
            report = db.load(items)
            assert (report.inserted, report.updated) == (205, 0)
            words = codes.to_words(items.codes, 64).tolist()
            expected = [(path, *word) for path, word in zip(items.paths, words, strict=True)]
            assert rows_of(db.connection) == expected
            report = db.load(items.take(np.arange(205)[::-1]))
            assert (report.inserted, report.updated) == (0, 205)
            assert len(features_of(db.connection)) == (205 if features else 0)

    def test_the_last_of_equal_paths_counts(self, database_url: str) -> None:
        items = complete_set(400)
        paths = [f"{row % 7}.jpg" for row in range(400)]
        last = {path: row for row, path in enumerate(paths)}
        words = codes.to_words(items.codes, 64).tolist()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, paths=paths))
            found = {path: list(code) for path, *code in rows_of(db.connection)}
        assert found == {path: words[row] for path, row in last.items()}

    def test_the_same_role(self, private_cluster: postgres.Cluster) -> None:
        """The further connections write as whom the first one does, if it may draw ids."""
        with private_cluster.database(private_cluster.template()) as url:
            with open_connection(url) as connection:
                connection.execute("CREATE ROLE writer")
                connection.execute(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer"
                )
            with retrieval_db.connect(url) as db:
                db.connection.execute("SET ROLE writer")
                with crew.more_connections(db.connection, 1) as others:
                    assert others == []
                items = replace(complete_set(100), features=None)
                assert db.load(items).inserted == 100
                db.connection.execute("RESET ROLE")
                db.connection.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO writer")
                db.connection.execute("SET ROLE writer")
                with crew.more_connections(db.connection, 1) as (other,):
                    assert other.execute("SELECT current_user").fetchone() == ("writer",)
                assert db.load(items).updated == 100

    def test_no_connection_to_spare(self, private_cluster: postgres.Cluster) -> None:
        with private_cluster.database(private_cluster.template()) as url:
            with open_connection(url) as connection:
                connection.execute("CREATE ROLE guest LOGIN CONNECTION LIMIT 1")
                connection.execute(
                    "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO guest"
                )
            with retrieval_db.connect(make_conninfo(url, user="guest")) as db:
                with crew.more_connections(db.connection, 1) as others:
                    assert others == []
                items = replace(complete_set(100), features=None)
                assert db.load(items).inserted == 100

    def test_an_error_stops_all(self, database_url: str) -> None:
        items = complete_set(400)
        items = replace(items, paths=[*items.paths[:205], "zero\0byte.jpg", *items.paths[206:]])
        with retrieval_db.connect(database_url) as db:
            writers = [loading.Writer(db.connection, stored(db, items))]
            with crew.more_connections(db.connection, 2) as others:
                writers += [loading.Writer(other, writers[0].encoder) for other in others]
                assert len(writers) == 3
                with pytest.raises(FormatError, match="zero byte"):
                    crew.write_all(writers, items.batches(10))
            assert len(rows_of(db.connection)) % 10 == 0
            assert 100 < len(rows_of(db.connection)) < 300


def stored(db: retrieval_db.client.Database, items: CodeSet) -> encoders.StoredEncoder:
    return encoders.register(db.connection, str(items.encoder), items.bits, fingerprint=None)


def test_batches_keep_the_order() -> None:
    items = complete_set(25)
    parts = list(items.batches(10))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [path for part in parts for path in part.paths] == items.paths
    assert (np.concatenate([part.codes for part in parts]) == items.codes).all()
