"""Files of codes: read in any format, and written as text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from retrieval_db import CodeSet
from retrieval_db.interchange import Settings, joined, open_source


def read(file: Path, kind: str | None = None, **options: Any) -> CodeSet:
    """A file's codes, read in small batches."""
    return joined(list(open_source(file, Settings(**options), kind).batches(7)))


def write(file: Path, text: str) -> Path:
    """A file of this text, with its ends of lines as they are."""
    file.write_text(text, encoding="utf-8", newline="")
    return file
