"""The same query to both sources of answers."""

from __future__ import annotations

from typing import Any

import retrieval_db
from retrieval_db.client import Database


def without_cost(result: retrieval_db.SearchResult) -> dict[str, Any]:
    """An answer without what it cost and where it came from."""
    dropped = ("milliseconds", "plan", "shells", "probes", "candidates", "source")
    return {name: value for name, value in result.as_dict().items() if name not in dropped}


def assert_same(db: Database, query: Any, **options: Any) -> retrieval_db.SearchResult:
    """Both sources give the same answer, hit for hit."""
    wanted = db.search(query, **options)
    found = db.search(query, **options, source="memory")
    assert found.hits == wanted.hits
    assert (found.source, wanted.source) == ("memory", "database")
    assert found.exact
    assert wanted.exact
    assert found.guaranteed_radius == db.encoder(options.get("encoder")).bits
    assert (found.stage, found.pool_size, found.tie_whole) == (
        wanted.stage, wanted.pool_size, wanted.tie_whole
    )  # fmt: skip
    return found
