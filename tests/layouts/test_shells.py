"""How many rows the shells of a layout meet."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

import retrieval_db
from retrieval_db import layouts
from tests import example


class TestShellRows:
    """The fullest buckets are counted once, and decide which shells need no limit."""

    def counted(self, db: retrieval_db.Database) -> tuple[int, list[int]]:
        row = db.connection.execute(
            "SELECT row_count, shell_rows FROM layouts WHERE active AND encoder_id IS NOT NULL"
        ).fetchone()
        assert row is not None
        return row[0], row[1]

    @pytest.mark.parametrize("kind", ["uniform", "equal"])
    def test_they_are_the_sums_of_the_fullest_buckets(self, database_url: str, kind: str) -> None:
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, kind, 25_000, 64)
            layout = layouts.layout_of(db.connection, db.encoder())
            assert layout is not None
            rows, shells = self.counted(db)
        bits = np.unpackbits(items.codes, axis=1).astype(np.int64)
        wanted = [0] * 5
        start = 0
        for width in layout.widths:
            values = bits[:, start : start + width] @ (1 << np.arange(width)[::-1])
            sizes = np.sort(np.unique(values, return_counts=True)[1])[::-1]
            start += width
            for flips in range(5):
                met = int(sizes[: math.comb(width, flips)].sum())
                wanted[flips] = max(wanted[flips], met)
        assert (rows, shells) == (25_000, wanted)

    def test_a_sample_of_many_rows_comes_near(self, database_url: str) -> None:
        with retrieval_db.connect(database_url) as db:
            example.filled(db.connection, "equal", 120_000, 64)
            rows, shells = self.counted(db)
            assert rows == 120_000
            wanted = db.connection.execute(
                "SELECT count(*) FROM images GROUP BY code_1 ORDER BY 1 DESC LIMIT 1"
            ).fetchone()
            assert wanted is not None
        assert wanted[0] / 2 < shells[0] < 3 * wanted[0]
        assert shells == sorted(shells)

    def test_a_bucket_that_came_later_ends_the_shell(self, database_url: str) -> None:
        """A shell is ended also where rows of one code were loaded after the counting."""
        with retrieval_db.connect(database_url) as db:
            items = example.filled(db.connection, "uniform", 25_000, 64)
            later = example.code_set(np.repeat(items.codes[:1], 15_000, axis=0), 64)
            later = replace(later, paths=[f"later/{path}" for path in later.paths or []])
            db.load(later)
            assert self.counted(db)[0] == 25_000
            db.connection.execute("VACUUM ANALYZE images")
            for _ in range(2):
                result = db.search(items.codes[0], k=1800)
                assert (result.plan, result.exact) == ("scan", True)
                assert {hit.distance for hit in result.hits} == {0}
                assert result.candidates is not None
                assert result.candidates < 40_000 + 5_000
                db.tune()
                assert 12_000 < self.counted(db)[1][0] < 18_000
