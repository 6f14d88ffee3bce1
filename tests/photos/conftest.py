"""A shard with samples of every kind."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.photos.shards import make_shard, picture


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return make_shard(
        tmp_path / "000.tar",
        {
            "a.png": picture(1),
            "a.cls": b"hat\n",
            "a.json": b'{"year": 2024, "label": "not this"}',
            "sub/b.json": b'{"label": 7}',
            "sub/b.left.png": picture(2),
            "sub/b.right.png": picture(3),
            "./c.png": picture(4),
            "c.txt": b"a caption",
            "d.json": b"[1, 2]",
            "d.png": picture(5),
            "e.cls": b"nothing to label",
            ".hidden.png": picture(6),
            "../out.png": picture(7),
        },
    )
