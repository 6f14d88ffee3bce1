"""Photos, and what an index run makes of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import retrieval_db
from retrieval_db import encoder as encoders_of_photos

NAMES = ("b.png", "a.jpg", "shoes/1.png", "shoes/2.png", "hats/1.png")
EVERYTHING = "path, label, content_sha256, code_1, code_2, code_3, code_4"


def index(url: str, *sources: Path | str, **options: Any) -> retrieval_db.IndexReport:
    with retrieval_db.connect(url) as db:
        return db.index(*sources, encoder=encoders_of_photos.create("phash64"), **options)
