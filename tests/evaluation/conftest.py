"""A table with the codes of two encoders."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

from retrieval_db import loading
from retrieval_db.database import Connection
from retrieval_db.encoders import StoredEncoder, find
from retrieval_db.interchange import CodeSet
from tests.evaluation.labelled import labelled


@pytest.fixture
def connection(database_url: str) -> Iterator[Connection]:
    with psycopg.connect(database_url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def filled(connection: Connection) -> tuple[CodeSet, StoredEncoder]:
    """The codes of two encoders in one table; the first one is evaluated."""
    items = labelled("clustered", 150)
    loading.load(connection, items)
    loading.load(connection, labelled("uniform", 50, "other", seed=1))
    return items, find(connection, "example")
