"""A database, and somebody else in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

import retrieval_db
from retrieval_db.client import Database
from tests import example


@pytest.fixture
def db(database_url: str) -> Iterator[Database]:
    with retrieval_db.connect(database_url) as found:
        yield found


@pytest.fixture
def other(database_url: str) -> Iterator[psycopg.Connection[Any]]:
    """Somebody else's connection."""
    with example.connect(database_url) as connection:
        yield connection
