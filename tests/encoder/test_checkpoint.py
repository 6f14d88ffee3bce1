"""Encoder files."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save as save_tensors

from retrieval_db import encoder
from retrieval_db.encoder import checkpoint
from retrieval_db.errors import EncoderUnavailable, FormatError, UsageError

DEEP = b"[" * 100_000
TENSORS = {"b": np.arange(6, dtype=np.float32).reshape(2, 3), "a": np.zeros(0, np.float32)}


def test_round_trip() -> None:
    config = {"kind": "network", "x": [0.5, None, "é"]}
    name, again, tensors = checkpoint.unpack(checkpoint.pack("n", config, TENSORS))
    assert (name, again) == ("n", config)
    assert tensors.keys() == TENSORS.keys()
    assert np.array_equal(tensors["b"], TENSORS["b"])


def test_equal_encoders_give_equal_bytes() -> None:
    backwards = dict(reversed(TENSORS.items()))
    assert checkpoint.pack("n", {"p": 1, "q": 2}, TENSORS) == checkpoint.pack(
        "n", {"q": 2, "p": 1}, backwards
    )


def test_fingerprint_sees_config_names_shapes_and_values() -> None:
    base = checkpoint.fingerprint({"x": 1}, TENSORS)
    assert base == checkpoint.fingerprint({"x": 1}, dict(reversed(TENSORS.items())))
    others = [
        checkpoint.fingerprint({"x": 2}, TENSORS),
        checkpoint.fingerprint({"x": 1}, {**TENSORS, "b": TENSORS["b"].reshape(3, 2)}),
        checkpoint.fingerprint({"x": 1}, {**TENSORS, "b": TENSORS["b"] + 1}),
        checkpoint.fingerprint({"x": 1}, {"c": TENSORS["b"], "a": TENSORS["a"]}),
    ]
    assert len({base, *others}) == 5


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (b"\xff" * 40, "not a safetensors file"),
        (pickle.dumps({"a": 1}), "not a safetensors file"),
        (checkpoint.pack("n", {}, TENSORS)[:-5], "damaged"),
        (save_tensors(TENSORS), "holds no encoder"),
        (save_tensors(TENSORS, {checkpoint.HEADER_KEY: "{"}), "header .* is damaged"),
        (save_tensors(TENSORS, {checkpoint.HEADER_KEY: "[]"}), "header .* is damaged"),
        (save_tensors(TENSORS, {checkpoint.HEADER_KEY: "[" * 100_000}), "header .* is damaged"),
        (len(DEEP).to_bytes(8, "little") + DEEP, "not a safetensors file"),
        (
            save_tensors(
                TENSORS, {checkpoint.HEADER_KEY: '{"format": 1, "name": 3, "config": {}}'}
            ),
            "header .* is damaged",
        ),
        (
            save_tensors(
                TENSORS, {checkpoint.HEADER_KEY: '{"format": 9, "name": "n", "config": {}}'}
            ),
            "upgrade retrieval-db",
        ),
    ],
)
def test_other_files_are_refused(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError, match=message) as caught:
        encoder.open_file(path)
    assert str(path) in str(caught.value)


def test_nested_as_deep_as_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "encoder.safetensors"
    for depth in range(900, 1010, 5):
        header = '{"format": 1, "name": "n", "config": ' + '{"a":' * depth + "0" + "}" * depth + "}"
        path.write_bytes(save_tensors(TENSORS, {checkpoint.HEADER_KEY: header}))
        with pytest.raises((FormatError, EncoderUnavailable)):
            encoder.open_file(path)


def test_what_is_nested_deep_is_no_encoder(tmp_path: Path) -> None:
    (tmp_path / "weights").write_bytes(len(DEEP).to_bytes(8, "little") + DEEP)
    assert not checkpoint.is_encoder(tmp_path / "weights")


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        encoder.open_file(tmp_path / "no.safetensors")


def test_a_perceptual_hash_can_be_saved_too(tmp_path: Path) -> None:
    hasher = encoder.create("phash256", name="copies")
    encoder.save(hasher, tmp_path / "h.safetensors")
    assert encoder.open_file(tmp_path / "h.safetensors") == hasher


def test_save_leaves_nothing_half_done(tmp_path: Path) -> None:
    hasher = encoder.create("phash64")
    (tmp_path / "folder").mkdir()
    with pytest.raises(FormatError, match=r"Cannot write .*folder: Is a directory\."):
        encoder.save(hasher, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


def test_config_and_artifact_must_belong_together() -> None:
    artifact = checkpoint.pack("n", {"kind": "network", "bits": 8}, TENSORS)
    with pytest.raises(FormatError, match="another config"):
        encoder.from_stored("n", {"kind": "network", "bits": 12}, artifact)
    with pytest.raises(EncoderUnavailable, match="without its weights"):
        encoder.from_stored("n", {"kind": "network"}, None)
    with pytest.raises(EncoderUnavailable, match="upgrade retrieval-db"):
        encoder.from_stored("n", {"kind": "quantum"}, artifact)
