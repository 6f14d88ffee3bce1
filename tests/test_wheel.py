"""The wheel holds all that a checkout runs, under one name in site-packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built as a wheel and installed by itself into a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    # Built from the tracked files: what a checkout leaves lying about does not count.
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False
    ).stdout.split(b"\0")
    source = folder / "source"
    for name in filter(None, map(os.fsdecode, listed)):
        target = source / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_symlink():
            target.symlink_to(os.readlink(ROOT / name))
        elif (ROOT / name).is_file():
            target.write_bytes((ROOT / name).read_bytes())
    if not source.exists():
        pytest.skip("not a git checkout")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--target", str(folder / "site"), str(source)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return folder / "site"


def test_only_our_name_lands_in_site_packages(installed: Path) -> None:
    names = {path.name for path in installed.iterdir() if not path.name.endswith(".dist-info")}
    assert names - {"bin"} == {"retrieval_db"}


def test_every_tracked_room_travels(installed: Path) -> None:
    source = ROOT / "retrieval_db"
    for room in filter(Path.is_dir, source.iterdir()):
        tracked = {
            path.relative_to(source)
            for path in room.rglob("*")
            if path.suffix in (".py", ".sql", ".jinja", ".mako")
        }
        there = (installed / "retrieval_db" / room.name).rglob("*")
        assert tracked <= {path.relative_to(installed / "retrieval_db") for path in there}, room


def test_the_installed_program_runs(installed: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "retrieval_db.cli", "migrate", "--sql"],
        cwd=installed,
        env=os.environ | {"PYTHONPATH": str(installed)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "CREATE TABLE images" in done.stdout
    assert "CREATE FUNCTION search_codes" in done.stdout
