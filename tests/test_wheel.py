"""The wheel holds all that a checkout runs, under one name in site-packages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT


def tracked() -> list[Path]:
    """What git knows of: what a checkout leaves lying about does not count."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    return [Path(os.fsdecode(name)) for name in listed.stdout.split(b"\0") if name]


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The package, built from the tracked files and installed by itself into a folder."""
    folder = tmp_path_factory.mktemp("wheel")
    source = folder / "source"
    for name in tracked():
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


def test_every_tracked_file_travels(installed: Path) -> None:
    """Of the core, and of the rooms that are linked into it."""
    package = ROOT / "retrieval_db"
    links = [link.name for link in package.iterdir() if link.is_symlink()]
    files = {
        name if name.parts[0] == package.name else package.name / name
        for name in tracked()
        if name.parts[0] in (package.name, *links) and not (ROOT / name).is_symlink()
    }
    there = (installed / package.name).rglob("*")
    assert files <= {path.relative_to(installed) for path in there}


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
