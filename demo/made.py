"""The demo with the core alone: pictures that it draws, and a perceptual hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter

from retrieval_db.client import Database
from retrieval_db.evaluation import metrics
from retrieval_db.photos import label_reader

from . import steps
from .steps import DemoReport, Quality, Say

NAME = "demo-made"
PICTURES = 80
SIZE = (240, 180)
SHOWN = 12
SEED = 0

INTRODUCTION = (
    "Drawn pictures, each stored as it is, recompressed, at half the size, and blurred. The "
    "queries are further copies: smaller, brighter, and recompressed. phash64, a perceptual "
    "hash, finds copies of an image, not images of similar content."
)

Change = Callable[[Image.Image], Image.Image]

# The copies in the database: file name and what was done.
COPIES: dict[str, Change] = {
    "original.png": lambda image: image,
    "recompressed.jpg": lambda image: image,
    "half.png": lambda image: image.resize((image.width // 2, image.height // 2)),
    "blurred.png": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
}
QUALITY = 30


def run(database: Database, output: Path, *, say: Say) -> DemoReport:
    """Draw, store, search, measure, show; see `demo.run`."""
    from retrieval_db.encoder import PerceptualHash

    folder = output / "made"
    say(f"1. {PICTURES} drawn pictures, four copies of each: {steps.short(folder / 'database')}")
    queries = draw_files(folder)
    encoder = PerceptualHash(64, NAME)
    say("2. The encoder is phash64, a perceptual hash: it finds copies, not similar content")
    say(f"3. Its codes go into PostgreSQL: {database.target}")
    report = steps.store(
        database, encoder, folder / "database", say=say, labels=label_reader("folder")
    )
    say(f"4. {len(queries)} queries: further copies, smaller and brighter")
    encoded, _ = steps.encode(encoder, queries)
    ranked = [
        steps.rank(database, encoder, query, file.stem, len(COPIES))
        for file, query in zip(queries, encoded, strict=True)
    ]
    quality = Quality(*map(metrics.mean, zip(*ranked, strict=True)))
    say(f"   mAP over the live table:  {quality.mean_average_precision:.4f}")
    say(f"   precision@{len(COPIES)}:              {quality.precision:.4f}")
    answers = [
        steps.ask(database, encoder, file, query, title=file.name, label=file.stem)
        for file, query in list(zip(queries, encoded, strict=True))[:SHOWN]
    ]
    sheet, page = steps.present(
        database,
        answers,
        output / "made",
        title="Copies of drawn pictures",
        introduction=INTRODUCTION,
        facts=[
            ("database images", f"{report.found:,}"),
            ("queries", f"{len(queries):,}"),
            ("mAP, whole table", f"{quality.mean_average_precision:.4f}"),
            (f"precision@{len(COPIES)}", f"{quality.precision:.4f}"),
        ],
        say=say,
    )
    return DemoReport(NAME, report.found, tuple(answers), sheet, page, len(queries), quality)


def draw_files(folder: Path) -> list[Path]:
    """Write `database/picture-07/blurred.png` and so on; returns `queries/picture-07.jpg`, …"""
    generator = np.random.default_rng(SEED)
    (folder / "queries").mkdir(parents=True, exist_ok=True)
    queries = []
    for number in range(PICTURES):
        picture = draw(generator)
        name = f"picture-{number:02}"
        copies = folder / "database" / name
        copies.mkdir(parents=True, exist_ok=True)
        for file, change in COPIES.items():
            _save(change(picture), copies / file)
        query = ImageEnhance.Brightness(picture.resize((160, 120))).enhance(1.15)
        queries.append(folder / "queries" / f"{name}.jpg")
        _save(query, queries[-1])
    return queries


def draw(generator: np.random.Generator) -> Image.Image:
    """A picture of a few coloured shapes on a shaded ground."""
    width, height = SIZE
    corners = generator.integers(0, 256, (2, 2, 3), dtype=np.uint8)
    image = Image.fromarray(corners).resize(SIZE, Image.Resampling.BICUBIC)
    drawing = ImageDraw.Draw(image)
    for _ in range(generator.integers(4, 9)):
        red, green, blue = generator.integers(0, 256, 3).tolist()
        x, y = generator.integers(-20, width - 20), generator.integers(-20, height - 20)
        wide, high = generator.integers(30, 120, 2).tolist()
        box = (int(x), int(y), int(x) + wide, int(y) + high)
        shape = generator.choice(["ellipse", "rectangle", "triangle"])
        if shape == "ellipse":
            drawing.ellipse(box, fill=(red, green, blue))
        elif shape == "rectangle":
            drawing.rectangle(box, fill=(red, green, blue))
        else:
            corner = (box[0] + wide // 2, box[1])
            drawing.polygon([corner, box[2:], (box[0], box[3])], fill=(red, green, blue))
    return image


def _save(image: Image.Image, path: Path) -> None:
    # The quality is of JPEG; PNG takes no notice.
    image.save(path, quality=QUALITY)
