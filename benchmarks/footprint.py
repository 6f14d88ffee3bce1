"""Memory over the time of long index runs: a million images, and many through a network.

    python -m benchmarks.footprint [--database URL] [--hash 1000000] [--network 50000]

The images are small (32 × 32 PNG files, 10,000 different ones under many names), so that a
million can be decoded in reasonable time; each is read, decoded and encoded. The index run is
`retrieval-db index` as a program of its own; its resident memory and that of the processes it
starts is sampled every second.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from PIL import Image

from benchmarks import databases, study
from retrieval_db.encoder import save, train_small

DIFFERENT = 10_000
IN_A_FOLDER = 1_000
SIDE = 32


def photos(folder: Path, count: int) -> Path:
    """So many image files in folders of a thousand; hard links of 10,000 different ones."""
    random = np.random.default_rng(0)
    for number in range(count):
        name = folder / f"{number // IN_A_FOLDER:05d}" / f"{number:08d}.png"
        if number % IN_A_FOLDER == 0:
            name.parent.mkdir(parents=True)
        if number < DIFFERENT:
            small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(name, compress_level=1)
        else:
            first = number % DIFFERENT
            os.link(folder / f"{first // IN_A_FOLDER:05d}" / f"{first:08d}.png", name)
    return folder


def tiny_network(file: Path) -> Path:
    """A small trained network as a file."""
    random = np.random.default_rng(0)
    images = [
        Image.fromarray(random.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)) for _ in range(16)
    ]
    save(train_small(images, ["a", "b"] * 8, 64, epochs=1, device="cpu"), file)
    return file


def resident(process: psutil.Process) -> int:
    """Bytes of a process and those it has started."""
    total = 0
    for one in [process, *process.children(recursive=True)]:
        try:
            total += one.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def measured(url: str, folder: Path, encoder: str) -> dict[str, Any]:
    """Index a folder in a program of its own, and sample its memory."""
    command = [sys.executable, "-m", "retrieval_db.cli", "index", str(folder), "--json"]
    command += ["--encoder", encoder, "--device", "cpu", "--database", url]
    started = time.monotonic()
    samples: list[tuple[float, int]] = []
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        watched = psutil.Process(process.pid)
        while process.poll() is None:
            try:
                samples.append((time.monotonic() - started, resident(watched)))
            except psutil.NoSuchProcess:
                break
            time.sleep(1)
        if process.wait():
            sys.exit(f"{' '.join(command)} failed")
        out.seek(0)
        report = json.load(out)
    running = [(at, size) for at, size in samples if at < report["profile"]["seconds"]]
    tenths = [running[place * (len(running) - 1) // 10] for place in range(1, 11)]
    return {
        "encoder": encoder if not encoder.endswith(".safetensors") else "small_cnn64",
        "images": report["found"],
        "encoded": report["encoded"],
        "seconds": round(report["profile"]["seconds"], 1),
        "images_per_second": round(report["encoded"] / report["profile"]["seconds"], 1),
        "peak_mib": round(max(size for _, size in samples) / 2**20, 1),
        # At each tenth of the run.
        "mib_over_time": [
            {"second": round(at, 1), "mib": round(size / 2**20, 1)} for at, size in tenths
        ],
        "growth_from_half_to_end_mib": round((tenths[-1][1] - tenths[4][1]) / 2**20, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--hash", type=int, default=1_000_000)
    parser.add_argument("--network", type=int, default=50_000)
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place:
        folder = photos(Path(place) / "photos", max(options.hash, options.network))
        part = Path(place) / "part"
        part.mkdir()
        for name in sorted(os.listdir(folder))[: -(-options.network // IN_A_FOLDER)]:
            (part / name).mkdir()
            for file in os.listdir(folder / name):
                os.link(folder / name / file, part / name / file)
        network = tiny_network(Path(place) / "tiny.safetensors")
        for kind, where, encoder in (
            ("network", part, str(network)),
            ("phash64", folder, "phash64"),
        ):
            with databases.fresh(options.database, "bench_footprint") as db:
                figures[kind] = measured(db.target.url, where, encoder)
            print(kind, figures[kind], flush=True)
            study.write("footprint", study.command(), figures)


if __name__ == "__main__":
    main()
