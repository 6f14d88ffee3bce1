"""Codes in an npz, the format of our own files."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from retrieval_db import CodeSet, read_npz, write_npz
from retrieval_db.errors import FormatError, InvalidCode, WrongWidth
from retrieval_db.interchange import npz_writer, replacing
from retrieval_db.interchange.npz import NpzSource
from tests import example

GOOD: dict[str, Any] = {
    "codes": np.zeros((2, 2), dtype=np.uint8),
    "bits": 12,
    "paths": np.array(["a", "b"]),
}


class TestFile:
    """What is written to an npz is read again; what else might be in one is refused."""

    @pytest.mark.parametrize("bits", [4, 12, 64, 252, 256])
    @pytest.mark.parametrize("rows", [0, 1, 40])
    def test_round_trip(self, tmp_path: Path, rows: int, bits: int) -> None:
        items = example.complete_set(rows, bits)
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
        items = replace(example.complete_set(), config=None)
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
        items = example.complete_set()
        write_npz(tmp_path / "codes.npz", items)
        before = (tmp_path / "codes.npz").read_bytes()
        with pytest.raises(FileNotFoundError), replacing(tmp_path / "codes.npz") as temporary:
            temporary.with_name("half of a file is written").read_bytes()
        assert (tmp_path / "codes.npz").read_bytes() == before
        assert [path.name for path in tmp_path.iterdir()] == ["codes.npz"]
        for place in (tmp_path / "no" / "codes.npz", tmp_path):
            with pytest.raises(FormatError, match="Cannot write"):
                write_npz(place, items)
