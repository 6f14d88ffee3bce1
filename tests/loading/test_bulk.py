"""Codes from memory and from files: whole batches, each path once, or a clear refusal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import retrieval_db
from retrieval_db import encoders, exporting, loading, texts, write_npz
from retrieval_db.errors import (
    EncoderConflict,
    FormatError,
    MissingExtension,
    RetrievalError,
    UsageError,
    WrongWidth,
)
from retrieval_db.interchange import open_source
from retrieval_db.loading import bulk, writer
from tests import example
from tests.loading.tables import features_of, rows_of


class TestRows:
    """What is loaded stands in the tables."""

    def test_everything(self, database_url: str) -> None:
        items = example.complete_set()
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
        items = example.complete_set(2).take(np.arange(1))
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, paths=[digits], labels=[digits]))
            assert rows_of(db.connection, "path, label") == [(digits, digits)]

    def test_no_rows(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            assert db.load(example.complete_set(0)).inserted == 0
            assert [encoder.name for encoder in db.encoders()] == ["example"]

    @pytest.mark.parametrize("change", ["fingerprint", "bits", "rows"])
    @pytest.mark.parametrize("kind", ["npz", "parquet"])
    def test_a_file_that_is_replaced_before_it_is_loaded(
        self, database_url: str, tmp_path: Path, kind: str, change: str
    ) -> None:
        if kind == "parquet":
            pytest.importorskip("pyarrow")
        items = example.complete_set()
        other = {
            "fingerprint": replace(items, fingerprint="ab" * 32),
            "bits": example.complete_set(bits=128),
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
        write_npz(tmp_path / "codes.npz", replace(example.complete_set(), encoder=None))
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
        items = example.complete_set(50)
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
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            before = rows_of(db.connection, "id, path, label, content_sha256")
            db.load(replace(items, labels=None, content_sha256=None))
            assert rows_of(db.connection, "id, path, label, content_sha256") == before

    def test_a_code_that_changes_without_its_hash_loses_it(self, database_url: str) -> None:
        """It came from another content; `index` then looks again."""
        items = example.complete_set()
        changed = items.codes.copy()
        changed[:5] ^= 1
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            db.load(replace(items, codes=changed, content_sha256=None))
            found = dict(rows_of(db.connection, "path, content_sha256"))
            assert [path for path, sha256 in found.items() if sha256 is None] == items.paths[:5]

    def test_a_code_that_changes_without_its_feature_loses_it(self, database_url: str) -> None:
        items = example.complete_set()
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
        items = example.complete_set()
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
            db.load(example.complete_set(), progress=seen.append)
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
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(items)
            before = rows_of(db.connection), db.encoder()
            different = replace(items, codes=items.codes ^ np.uint8(1), **change)
            with pytest.raises(error, match=message):
                db.load(different)
            assert (rows_of(db.connection), db.encoder()) == before

    def test_another_width(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            db.load(example.complete_set(bits=64))
            for fingerprint in ("fingerprint of example", None):
                with pytest.raises(WrongWidth, match="64 bits, not 128"):
                    db.load(replace(example.complete_set(bits=128), fingerprint=fingerprint))
            assert len(rows_of(db.connection)) == 40

    def test_bad_text_leaves_no_encoder_behind(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            with pytest.raises(FormatError):
                db.load(replace(example.complete_set(), paths=["a"] * 39 + [""]))
            assert db.encoders() == []

    def test_features_without_pgvector(self, database_url: str) -> None:
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.connection.execute("DROP TABLE image_features CASCADE")
            with pytest.raises(MissingExtension, match="--no-features"):
                db.load(items)
            assert db.encoders() == []
            assert db.load(items, features=False).inserted == 40
            found = db.search(items.codes[3], k=1)
            assert (found.stage, found.hits[0].path) == ("coarse", items.paths[3])

    def test_a_session_that_may_only_read(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            db.connection.execute("SET default_transaction_read_only = on")
            with pytest.raises(RetrievalError, match="refused"):
                db.load(example.complete_set())


class TestEncoderIsCompleted:
    """Codes may come first, and what made them later."""

    def test_with_its_weights(self, database_url: str) -> None:
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, config=None, artifact=None, features=None))
            assert not db.encoder().has_artifact
            db.load(items)
            stored = db.encoder()
            assert (stored.has_artifact, stored.feature_dim) == (True, 12)
            assert stored.config == {"kind": "network"}
            assert len(features_of(db.connection)) == 40

    def test_with_its_fingerprint(self, database_url: str) -> None:
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, fingerprint=None, artifact=None, config=None))
            db.load(items)
            assert db.encoder().fingerprint == items.fingerprint
            assert db.encoder().has_artifact
            with pytest.raises(EncoderConflict):
                db.load(replace(items, fingerprint="another"))
            db.load(replace(items, fingerprint=None))

    def test_with_its_features(self, database_url: str) -> None:
        items = example.complete_set()
        with retrieval_db.connect(database_url) as db:
            db.load(replace(items, features=None))
            db.load(replace(items, fingerprint=None))
            assert db.encoder().feature_dim == 12
            with pytest.raises(WrongWidth, match="Features of 5 dimensions"):
                db.load(replace(items, features=np.ones((40, 5), dtype=np.float32)))


def test_batches_keep_the_order() -> None:
    items = example.complete_set(25)
    parts = list(items.batches(10))
    assert [len(part) for part in parts] == [10, 10, 5]
    assert [path for part in parts for path in part.paths] == items.paths
    assert (np.concatenate([part.codes for part in parts]) == items.codes).all()
