"""Codes to evaluate."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from retrieval_db.interchange import CodeSet
from tests.example import code_set, random_codes

BITS = 24


def labelled(kind: str, rows: int, encoder: str = "example", seed: int = 0) -> CodeSet:
    """Codes with labels, some of them missing, and contents, some of them equal."""
    items = code_set(random_codes(kind, rows, BITS, seed), BITS, encoder)
    assert items.labels is not None
    labels = [None if row % 11 == 5 else label for row, label in enumerate(items.labels)]
    hashes = np.zeros((rows, 32), dtype=np.uint8)
    hashes[:, 0] = 1 + np.arange(rows) % 37
    hashes[:, 1] = np.arange(rows) // 60
    return replace(items, labels=labels, content_sha256=hashes)
