"""Remembered features give the same codes, and spare the backbone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from retrieval_db import encoder
from retrieval_db.encoder.memory import Remembering
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoders import Encoder


def test_codes_are_the_same_bits(mobilenet: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = encoder.create("itq16", weights=mobilenet, input_size=64)
    assert isinstance(made, NetworkEncoder)
    random = np.random.default_rng(0)
    seen = random.integers(0, 256, (20, 3, 64, 64), dtype=np.uint8)
    new = random.integers(0, 256, (3, 3, 64, 64), dtype=np.uint8)
    memory = Remembering(made)
    features = memory.features(seen)
    memory.fit(features)
    assert isinstance(memory, Encoder)
    plain = made.fit(features)
    assert memory.fingerprint == plain.fingerprint

    computed = []
    backbone = NetworkEncoder.features

    def counted(self: NetworkEncoder, batch: np.ndarray) -> np.ndarray:
        computed.append(len(batch))
        return backbone(self, batch)

    monkeypatch.setattr(NetworkEncoder, "features", counted)
    mixed = np.concatenate([seen[5:9], new, seen[:2]])
    found = memory.encode(mixed)
    assert computed == [3]
    for mine, wanted in zip(found, plain.encode(mixed), strict=True):
        assert (mine == wanted).all()
    assert found[1].dtype == np.float32
