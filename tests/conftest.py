"""Fixtures: databases on real servers, and the data that come with the project."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import postgres

ROOT = Path(__file__).resolve().parent.parent


# Files of few tests that take long: last, they would keep one worker busy and the other waiting.
LONG = ("test_readme.py", "test_wheel.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONG)


@pytest.fixture(autouse=True)
def _own_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """No test meets the database, or the embedded server, of whoever runs it."""
    for name in list(os.environ):
        if name.startswith("PG") or name in ("RETRIEVAL_DB_URL", "DATABASE_URL"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("RETRIEVAL_DB_HOME", str(tmp_path_factory.getbasetemp() / "no-home"))


@pytest.fixture(scope="session")
def clusters() -> Iterator[postgres.Clusters]:
    """The servers of this run by major version: `clusters[17]`."""
    found = postgres.Clusters()
    yield found
    found.remove()


@pytest.fixture(scope="session")
def cluster(clusters: postgres.Clusters) -> postgres.Cluster:
    """The server of the newest version, shared by all tests."""
    return clusters[postgres.DEFAULT_MAJOR]


@pytest.fixture(scope="session", params=postgres.MAJORS, ids=lambda major: f"postgresql{major}")
def any_cluster(request: pytest.FixtureRequest, clusters: postgres.Clusters) -> postgres.Cluster:
    """A server of each version in turn."""
    try:
        return clusters[request.param]
    except postgres.Absent as reason:
        pytest.skip(str(reason))


@pytest.fixture
def private_cluster() -> Iterator[postgres.Cluster]:
    """A server of the test's own, to be stopped, killed and started again."""
    found = postgres.Cluster(postgres.DEFAULT_MAJOR)
    yield found
    found.remove()


@pytest.fixture
def database_url(cluster: postgres.Cluster) -> Iterator[str]:
    """A migrated, empty database of the test's own."""
    with cluster.database(cluster.template()) as url:
        yield url


@pytest.fixture
def empty_database_url(cluster: postgres.Cluster) -> Iterator[str]:
    """A database without any migration."""
    with cluster.database() as url:
        yield url


@pytest.fixture
def any_database_url(any_cluster: postgres.Cluster) -> Iterator[str]:
    """A migrated database, on each version of PostgreSQL in turn."""
    with any_cluster.database(any_cluster.template()) as url:
        yield url


@pytest.fixture
def any_empty_database_url(any_cluster: postgres.Cluster) -> Iterator[str]:
    """A database without any migration, on each version of PostgreSQL in turn."""
    with any_cluster.database() as url:
        yield url


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The photos, codes and backbones that tests with real data use."""
    place = os.environ.get("RETRIEVAL_DB_DATA")
    found = Path(place) if place else ROOT.parent / "shared" / "data"
    if not found.is_dir():
        pytest.skip(f"no data in {found} (RETRIEVAL_DB_DATA names another folder)")
    return found
