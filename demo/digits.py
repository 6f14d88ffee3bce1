"""The demo on scikit-learn's scanned digits, with a network trained on the spot."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image

from retrieval_db import photos
from retrieval_db.client import Database
from retrieval_db.evaluation import metrics
from retrieval_db.photos import label_reader
from retrieval_db.presentation import Answer

from . import steps
from .steps import DemoReport, Quality, Say

if TYPE_CHECKING:
    from retrieval_db.encoder.network import NetworkEncoder

NAME = "demo-digits"
BITS = 48
QUERIES = 500
SEED = 0
# On the sheet: a query of each digit, and those with the worst answers.
WORST = 3

TITLE = "Scanned digits"
INTRODUCTION = (
    "scikit-learn's 1,797 digits, 8 × 8 pixels each. A small network was trained on 1,297 of "
    "them, which also fill the database; the 500 others are the queries, unseen in training. "
    "First one query for each digit, then the queries with the worst answers."
)


@dataclass(frozen=True)
class Files:
    """The digits as image files, in a folder for each digit.

    Attributes:
        folder: of the database set.
        database, queries: the files.
    """

    folder: Path
    database: tuple[Path, ...]
    queries: tuple[Path, ...]


def run(database: Database, output: Path, *, say: Say, device: str) -> DemoReport:
    """Write, train, store, search, measure, show; see `demo.run`."""
    say("1. Real images: scikit-learn's scanned digits, as PNG files")
    files = write_files(output / "digits")
    say(f"   {len(files.database):,} for training and the database: {steps.short(files.folder)}")
    unseen = steps.short(output / "digits" / "queries")
    say(f"   {len(files.queries):,} for queries, never trained on: {unseen}")
    say(f"2. A small network learns {BITS}-bit hash codes from them (up to a minute)")
    started = time.perf_counter()
    encoder = train(files, device)
    say(f"   trained in {time.perf_counter() - started:.0f} s")
    say(f"3. Their codes go into PostgreSQL: {database.target}")
    report = steps.store(
        database,
        encoder,
        files.folder,
        say=say,
        labels=label_reader("folder"),
        total=len(files.database),
    )
    say(f"4. {len(files.queries)} queries, each against the whole table")
    quality, precisions = measure(database, encoder, files, say)
    answers = showcase(database, encoder, files.queries, precisions)
    sheet, page = steps.present(
        database,
        answers,
        output / "digits",
        title=TITLE,
        introduction=INTRODUCTION,
        facts=facts(quality, report.found),
        say=say,
    )
    return DemoReport(NAME, report.found, tuple(answers), sheet, page, len(files.queries), quality)


def write_files(folder: Path) -> Files:
    """Write the digits as PNG files: `database/3/0017.png` and `queries/3/0042.png`."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    rows = np.arange(len(digits.target))
    parts = train_test_split(rows, test_size=QUERIES, random_state=SEED, stratify=digits.target)
    written: dict[str, tuple[Path, ...]] = {}
    for part, chosen in zip(("database", "queries"), parts, strict=True):
        paths = []
        for row in sorted(chosen.tolist()):
            path = folder / part / str(digits.target[row]) / f"{row:04}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            # The scans have 17 grey levels, 0 to 16.
            grey = (digits.images[row] * (255 / 16)).round().astype(np.uint8)
            Image.fromarray(grey).save(path)
            paths.append(path)
        written[part] = tuple(paths)
    return Files(folder / "database", written["database"], written["queries"])


def train(files: Files, device: str) -> NetworkEncoder:
    """Train the network on the database files, labelled by their folders."""
    from retrieval_db.encoder import train_small

    images = [photos.decode(photos.content(path), path) for path in files.database]
    labels = [path.parent.name for path in files.database]
    return train_small(images, labels, BITS, name=NAME, seed=SEED, device=device)


def measure(
    database: Database, encoder: NetworkEncoder, files: Files, say: Say
) -> tuple[Quality, list[float]]:
    """Rank the whole table for each query and compare with the digits' labels.

    Returns:
        The means over queries, and the average precision of each query.
    """
    queries, outputs = steps.encode(encoder, files.queries)
    labels = [file.parent.name for file in files.queries]
    average, precision, fine, milliseconds = [], [], [], []
    for query, label in zip(queries, labels, strict=True):
        whole, first = steps.rank(database, encoder, query, label, steps.K)
        average.append(whole)
        precision.append(first)
        nearest = database.search(query, encoder=encoder.name, k=steps.K)
        milliseconds.append(nearest.milliseconds)
        if nearest.stage == "fine":
            fine.append(metrics.mean(hit.label == label for hit in nearest.hits))
    known = np.array([file.parent.name for file in files.database])
    baseline = metrics.mean(
        metrics.average_precision(known != predicted, known == label)
        for predicted, label in zip(encoder.predict(outputs), labels, strict=True)
    )
    quality = Quality(
        mean_average_precision=metrics.mean(average),
        precision=metrics.mean(precision),
        precision_fine=metrics.mean(fine) if fine else None,
        baseline=baseline,
    )
    say(f"   mAP over the live table:      {quality.mean_average_precision:.4f}")
    say(f"   mAP of the predicted label:   {baseline:.4f}   (no hashing: the baseline)")
    say(f"   precision@10, Hamming:        {quality.precision:.4f}")
    if quality.precision_fine is not None:
        say(f"   precision@10, then features:  {quality.precision_fine:.4f}")
    say(f"   median time of the ten nearest: {np.median(milliseconds):.1f} ms")
    return quality, average


def showcase(
    database: Database, encoder: NetworkEncoder, files: Sequence[Path], precisions: list[float]
) -> list[Answer]:
    """The answers to show: to the first query of each digit, then the worst ones."""
    first: dict[str, int] = {}
    for row, file in enumerate(files):
        first.setdefault(file.parent.name, row)
    chosen = [row for _, row in sorted(first.items())]
    order = np.argsort(precisions, kind="stable").tolist()
    chosen += [row for row in order if row not in chosen][:WORST]
    queries, _ = steps.encode(encoder, [files[row] for row in chosen])
    answers = []
    for row, query in zip(chosen, queries, strict=True):
        label = files[row].parent.name
        title = f"{label}/{files[row].name}  ·  average precision {precisions[row]:.3f}"
        answers.append(steps.ask(database, encoder, files[row], query, title=title, label=label))
    return answers


def facts(quality: Quality, stored: int) -> list[tuple[str, str]]:
    """What stands at the top of the page."""
    found = [
        ("database images", f"{stored:,}"),
        ("queries", f"{QUERIES:,}"),
        ("code length", f"{BITS} bits"),
        ("mAP, whole table", f"{quality.mean_average_precision:.4f}"),
        ("mAP of the predicted label alone", f"{quality.baseline:.4f}"),
        ("precision@10, coarse", f"{quality.precision:.4f}"),
    ]
    if quality.precision_fine is not None:
        found.append(("precision@10, fine", f"{quality.precision_fine:.4f}"))
    return found
