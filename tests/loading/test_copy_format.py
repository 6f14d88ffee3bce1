"""Binary COPY built by columns equals what the driver writes row by row."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_db.loading import copy_format
from tests import example

TYPES = ("int2", "int4", "int8", "text", "bytea")

texts = st.text(st.characters(exclude_characters="\0", codec="utf-8"), max_size=80)
rows_of_all_types = st.lists(
    st.tuples(
        st.integers(-(2**15), 2**15 - 1),
        st.integers(-(2**31), 2**31 - 1),
        st.integers(-(2**63), 2**63 - 1),
        st.none() | texts,
        st.none() | st.binary(max_size=80),
    ),
    max_size=30,
)


def by_driver(connection: psycopg.Connection[Any], rows: Sequence[tuple[Any, ...]]) -> bytes:
    """What psycopg writes for these rows: they go in by COPY, and come out by COPY."""
    with connection.cursor() as cursor:
        cursor.execute("DROP TABLE IF EXISTS round")
        cursor.execute("CREATE TEMPORARY TABLE round (a int2, b int4, c int8, d text, e bytea)")
        with cursor.copy("COPY round FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(TYPES)
            for row in rows:
                copy.write_row(row)
        with cursor.copy("COPY round TO STDOUT (FORMAT binary)") as copy:
            return b"".join(copy)


def by_columns(rows: Sequence[tuple[Any, ...]]) -> bytes:
    columns = list(zip(*rows, strict=True)) or [()] * len(TYPES)
    body = copy_format.rows(
        [
            copy_format.integers(np.array(columns[0], dtype=np.int64), 2),
            copy_format.integers(np.array(columns[1], dtype=np.int64), 4),
            copy_format.integers(np.array(columns[2], dtype=np.int64), 8),
            copy_format.fields([None if t is None else t.encode() for t in columns[3]]),
            copy_format.fields(columns[4]),
        ]
    )
    return copy_format.SIGNATURE + body + copy_format.TRAILER


def test_columns_equal_rows(database_url: str) -> None:
    with example.connect(database_url) as connection:

        @settings(deadline=None)
        @given(rows_of_all_types)
        def check(rows: list[tuple[Any, ...]]) -> None:
            assert by_columns(rows) == by_driver(connection, rows)

        check()


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [(0, 0, 0, "", b"")],
        [(1, 1, 1, None, None)],
        [(1, 1, 1, None, None)] * 3,
        [(1, 1, 1, "", b""), (2, 2, 2, None, None)],
        [(1, 1, 1, "abc", b"12"), (2, 2, 2, "äöü/猫.jpg", b"\0\xff")],
        [(1, 1, 1, "a" * 64, b"x" * 65), (2, 2, 2, "b" * 64, b"y" * 65)],
        [(1, 1, 1, "a" * 100_000, b"")],
    ],
)
def test_edges(database_url: str, rows: list[tuple[Any, ...]]) -> None:
    with example.connect(database_url) as connection:
        assert by_columns(rows) == by_driver(connection, rows)


def test_constant_and_fixed_columns_are_integers_and_bytes() -> None:
    count = 5
    data = np.arange(count * 32, dtype=np.uint8).reshape(count, 32)
    assert copy_format.rows(
        [copy_format.constant((7).to_bytes(4, "big"), count), copy_format.fixed(data, 32)]
    ) == copy_format.rows(
        [
            copy_format.integers(np.full(count, 7), 4),
            copy_format.fields([row.tobytes() for row in data]),
        ]
    )


@pytest.mark.parametrize("rows", [0, 1, 7])
@pytest.mark.parametrize("dimensions", [1, 30, 1280])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_half_vectors(
    database_url: str, rows: int, dimensions: int, kind: type[np.floating]
) -> None:
    random = np.random.default_rng(rows + dimensions)
    features = random.normal(scale=10, size=(rows, dimensions)).astype(kind)
    body = copy_format.rows(
        [copy_format.integers(np.arange(rows), 8), copy_format.half_vectors(features)]
    )
    with example.connect(database_url) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TEMPORARY TABLE vectors (id int8, feature halfvec)")
        with cursor.copy("COPY vectors FROM STDIN (FORMAT binary)") as copy:
            copy.write(copy_format.SIGNATURE + body + copy_format.TRAILER)
        found = cursor.execute("SELECT feature::real[] FROM vectors ORDER BY id").fetchall()
    stored = np.array([row[0] for row in found], dtype=np.float16).reshape(rows, dimensions)
    assert (stored == features.astype(np.float16)).all()
