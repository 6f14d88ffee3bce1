"""A folder of five photos."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import command
from tests.pipeline.indexed import NAMES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return command.photos(tmp_path / "photos", NAMES)
