"""The README's commands, Python and SQL, run as they stand, on photos made for it."""

from __future__ import annotations

import gzip
import os
import pickle
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image, ImageDraw

from retrieval_db.server import Server
from tests import old_files
from tests.conftest import ROOT

README = ROOT / "README.md"
GUIDES = sorted((ROOT / "docs").glob("*.md"))


def blocks(language: str) -> list[str]:
    text = "\n".join(file.read_text() for file in (README, *GUIDES))
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.DOTALL | re.MULTILINE)


def commands() -> list[str]:
    return [line for block in blocks("sh") for line in block.splitlines() if line]


def make_photos(folder: Path) -> None:
    random = np.random.default_rng(0)
    for label in ("seaside", "town"):
        (folder / label).mkdir(parents=True)
        for number in range(8):
            noise = random.integers(0, 255, (6, 8, 3), dtype=np.uint8)
            photo = Image.fromarray(noise).resize((320, 240), Image.Resampling.BICUBIC)
            ImageDraw.Draw(photo).ellipse(
                random.integers(0, 120, 2).tolist() + random.integers(121, 240, 2).tolist(),
                fill=tuple(random.integers(0, 255, 3).tolist()),
            )
            photo.save(folder / label / f"{number}.jpg")
    shutil.copy(folder / "seaside" / "3.jpg", folder / "beach.jpg")


def make_old_files(folder: Path) -> None:
    """What the guide to migration begins with, small; and a list of hashes."""
    random = np.random.default_rng(1)
    words = random.integers(0, 1 << 32, (60, 4)).tolist()
    paths = [f"/photos/{row}.jpg" for row in range(60)]
    (folder / "codes.pkl").write_bytes(pickle.dumps(dict(enumerate(map(tuple, words)))))
    (folder / "paths.pkl").write_bytes(pickle.dumps(paths))
    rows = [(path, *four) for path, four in zip(paths, words, strict=True)]
    (folder / "img.sql.gz").write_bytes(gzip.compress(old_files.dump(rows)))
    (folder / "hashes.txt").write_text("".join(f"{random.bytes(32).hex()}\n" for _ in range(9)))


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with photos, untrained weights, and an embedded server of its own."""
    torch = pytest.importorskip("torch", reason="the extra `encoder` is not installed")
    from torchvision.models import mobilenet_v2

    folder = tmp_path_factory.mktemp("readme")
    make_photos(folder / "photos")
    make_old_files(folder)
    torch.save(mobilenet_v2().state_dict(), folder / "mobilenet_v2-7ebf99e0.pth")
    # As root the server runs as another user, who cannot enter pytest's folders.
    home = Path(tempfile.mkdtemp(prefix="retrieval-test-"))
    home.chmod(0o755)
    (folder / "home").symlink_to(home)
    yield folder
    Server(home).stop()
    shutil.rmtree(home)


def run(command: str | list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "RETRIEVAL_DB_HOME": str((folder / "home").resolve()),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
    }
    return subprocess.run(
        command,
        shell=isinstance(command, str),
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_command_works(workplace: Path) -> None:
    found = commands()
    assert len(found) > 10
    stops = [line for line in found if line == "retrieval-db db stop"]
    for line in [line for line in found if line not in stops]:
        done = run(line, workplace)
        assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
    assert "beach.jpg" in run("retrieval-db search photos/beach.jpg -e phash64", workplace).stdout
    for made in ("copies.html", "neighbours.png", "codes.npz", "near.csv"):
        assert (workplace / made).stat().st_size > 100, made

    python = blocks("python")[0].replace('"/photos/', f'"{workplace}/photos/')
    done = run([sys.executable, "-c", python], workplace)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^1 0 .*(beach|3)\.jpg$", done.stdout, re.MULTILINE)
    assert "True 256" in done.stdout

    url = run("retrieval-db db url", workplace).stdout.strip()
    with psycopg.connect(url) as connection:
        for statement in ";\n".join(blocks("sql")).split(";\n"):
            if statement.strip() and "…" not in statement:
                connection.execute(statement.encode()).fetchall()

    for line in stops:
        assert "has stopped" in run(line, workplace).stderr
    assert "was not running" in run(stops[0], workplace).stderr
    assert "stopped" in run("retrieval-db db status", workplace).stdout


def test_make_targets_exist() -> None:
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README.read_text(), re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
