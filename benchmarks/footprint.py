"""Memory over the time of long index runs: a million images, and many through a network.

    python -m benchmarks.footprint [--database URL] [--hash 1000000] [--network 50000]

A million times `phash64`: small images (32 × 32 PNG files, 10,000 different ones under many
names), so that they can be decoded in reasonable time; each is read, decoded and encoded. The
network is the encoder `cifar10-48` that comes with the program, on the 50,000 training images of
CIFAR-10 (JPEG copy). The index run is `retrieval-db index` as a program of its own; its resident
memory and that of the processes it starts is sampled every second.
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

DIFFERENT = 10_000
IN_A_FOLDER = 1_000
SIDE = 32
NETWORK = "cifar10-48"


def file_of(folder: Path, number: int, kind: str) -> Path:
    """Where an image lies: a thousand in a folder."""
    place = folder / f"{number // IN_A_FOLDER:05d}"
    place.mkdir(parents=True, exist_ok=True)
    return place / f"{number:08d}.{kind}"


def made(folder: Path, count: int) -> Path:
    """So many image files; hard links of 10,000 different ones."""
    random = np.random.default_rng(0)
    for number in range(count):
        name = file_of(folder, number, "png")
        if number < DIFFERENT:
            small = random.integers(0, 256, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(small).resize((SIDE, SIDE)).save(name, compress_level=1)
        else:
            os.link(file_of(folder, number % DIFFERENT, "png"), name)
    return folder


def cifar10(folder: Path, count: int) -> Path:
    """The first of the training images of CIFAR-10 as files."""
    with np.load(study.data_dir() / "cifar10" / "cifar10_jpeg.npz") as archive:
        jpeg, offsets, total = archive["jpeg"], archive["offsets"], int(archive["n_train"])
    for number in range(min(count, total)):
        content = jpeg[offsets[number] : offsets[number + 1]]
        file_of(folder, number, "jpg").write_bytes(content.tobytes())
    return folder


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
        "encoder": encoder,
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
        for kind, encoder, images, count in (
            ("network", NETWORK, cifar10, options.network),
            ("phash64", "phash64", made, options.hash),
        ):
            folder = images(Path(place) / kind, count)
            with databases.fresh(options.database, "bench_footprint") as db:
                figures[kind] = measured(db.target.url, folder, encoder)
            print(kind, figures[kind], flush=True)
            study.write("footprint", study.command(), figures)


if __name__ == "__main__":
    main()
