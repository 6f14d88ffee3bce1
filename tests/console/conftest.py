"""Eight photos of two labels, and databases that hold them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import command, postgres

NAMES = [f"{kind}/{number}.png" for kind in ("hats", "shoes") for number in range(4)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return command.photos(tmp_path / "photos", NAMES)


@pytest.fixture
def url(database_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A database with the photos of `folder`; it needs no --database."""
    monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
    command.succeed("index", folder, "-e", "phash64", "--labels", "folder")
    return database_url


@pytest.fixture(scope="module")
def shared(
    cluster: postgres.Cluster, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, Path]]:
    """Such a database and its folder, for tests that change neither."""
    folder = command.photos(tmp_path_factory.mktemp("shared"), NAMES)
    with cluster.database(cluster.template()) as url:
        command.succeed("index", folder, "-e", "phash64", "--labels", "folder", "-d", url)
        yield url, folder
