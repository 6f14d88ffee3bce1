"""Codes to search in: clustered, uniform, or full of equal ones."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import psycopg
from numpy.typing import NDArray

from retrieval_db import codes, loading
from retrieval_db.database import Connection
from retrieval_db.interchange import CodeSet


def random_codes(kind: str, rows: int, bits: int, seed: int = 0) -> NDArray[np.uint8]:
    """Packed codes, uint8 [rows, ceil(bits/8)].

    Args:
        kind: `uniform`; `clustered` around a few centres; `equal`: few distinct codes.
    """
    random = np.random.default_rng(seed)
    if kind == "uniform":
        drawn = random.integers(0, 2, (rows, bits))
    elif kind == "clustered":
        centres = random.integers(0, 2, (20, bits))
        drawn = centres[random.integers(0, 20, rows)] ^ (random.random((rows, bits)) < 0.08)
    else:
        distinct = random.integers(0, 2, (max(4, rows // 50), bits))
        drawn = distinct[random.integers(0, len(distinct), rows)]
    return np.packbits(drawn.astype(np.uint8), axis=1)


def code_set(packed: NDArray[np.uint8], bits: int, encoder: str = "example") -> CodeSet:
    """The codes with paths and labels."""
    return CodeSet(
        packed,
        bits,
        paths=[f"{encoder}/{row}.jpg" for row in range(len(packed))],
        labels=[f"label {row % 7}" for row in range(len(packed))],
        encoder=encoder,
        fingerprint=f"fingerprint of {encoder}",
    )


def complete_set(rows: int = 40, bits: int = 64) -> CodeSet:
    """Codes with everything that can belong to them."""
    random = np.random.default_rng(7)
    return replace(
        code_set(random_codes("uniform", rows, bits), bits),
        paths=[f"/photos/äöü {row}/猫.jpg" for row in range(rows)],
        labels=[None if row % 3 == 0 else f"label {row % 3}" for row in range(rows)],
        content_sha256=random.integers(0, 256, (rows, 32), dtype=np.uint8),
        features=random.normal(size=(rows, 12)).astype(np.float32),
        config=json.dumps({"kind": "network"}),
        artifact=bytes(range(256)),
        root="/photos",
    )


def filled(
    connection: Connection, kind: str, rows: int, bits: int, encoder: str = "example", seed: int = 0
) -> CodeSet:
    """Load such codes into a database."""
    items = code_set(random_codes(kind, rows, bits, seed), bits, encoder)
    loading.load(connection, items)
    return items


def nearest(
    items: CodeSet, query: NDArray[np.uint8], k: int | None, radius: int | None = None
) -> list[tuple[str, int]]:
    """Path and distance of the nearest codes by brute force; ties in the order of loading."""
    distances = codes.hamming_distances(query[None, :], items.codes)[0]
    order = np.argsort(distances, kind="stable")
    if radius is not None:
        order = order[distances[order] <= radius]
    return [(items.paths[row], int(distances[row])) for row in order[:k]]


def keys(items: CodeSet, query: Any, kept: Sequence[int] | None = None) -> list[int]:
    """All keys (distance << 54 | id) by brute force, in order; ids follow the order of loading."""
    distances = codes.hamming_distances(query[None, :], items.codes)[0].tolist()
    kept = range(len(distances)) if kept is None else kept
    return sorted((distances[row] << 54) | (row + 1) for row in kept)


def rows(url: str, columns: str = "path, label") -> list[Any]:
    """What is stored of all images, in the order of their paths."""
    with connect(url) as connection:
        return connection.execute(
            f'SELECT {columns} FROM images ORDER BY path COLLATE "C"'
        ).fetchall()


def connect(url: str) -> Connection:
    """A connection in autocommit mode."""
    return psycopg.connect(url, autocommit=True)
