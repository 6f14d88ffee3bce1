"""The demo on the user's own photos."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path

from retrieval_db import photos
from retrieval_db.client import Database
from retrieval_db.encoders import Encoder
from retrieval_db.errors import (
    EncoderUnavailable,
    ImageError,
    MissingExtra,
    NotEnoughImages,
    UsageError,
)
from retrieval_db.photos import Item
from retrieval_db.pipeline import extract_features

from . import steps
from .steps import DemoReport, Say

NAME = "demo-photos"
QUERIES = 12
FIT_ON = 2000
SEED = 0

COPIES = (
    "phash64, a perceptual hash: it finds copies of a photo (recompressed, resized, slightly "
    "changed), not photos of similar content."
)
CONTENT = "mobilenet_v2 with a 128-bit ITQ head, fitted on these photos: it finds similar content."


def run(
    database: Database,
    output: Path,
    images: Path,
    *,
    weights: Path | None,
    say: Say,
    device: str,
) -> DemoReport:
    """Choose an encoder, store, search for some of the photos, show; see `demo.run`."""
    images = images.resolve()
    files = list(photos.find(images))
    if not images.is_dir():
        raise UsageError(f"{images} is no folder: name the one that your photos lie in.")
    if not files:
        raise UsageError(f"There is no image file in {images}.")
    say(f"1. Your photos: {len(files):,} files in {images}")
    say("2. An encoder")
    encoder, what = choose(files, weights, device, say)
    say(f"   {what}")
    say(f"3. Their codes go into PostgreSQL: {database.target}")
    steps.store(database, encoder, images, say=say, total=len(files))
    stored = sorted(item.path for item in database.files(database.encoder(NAME)))
    if not stored:
        raise ImageError(f"None of the {len(files):,} files in {images} can be read.")
    chosen = spread(stored)
    say(f"4. {len(chosen)} of them as queries; each finds itself first, at distance 0")
    queries, _ = steps.encode(encoder, chosen)
    answers = [
        steps.ask(database, encoder, file, query, title=str(file.relative_to(images)))
        for file, query in zip(chosen, queries, strict=True)
    ]
    sheet, page = steps.present(
        database,
        answers,
        output / "photos",
        title="Your photos",
        introduction=f"{what} The queries are in the database, so each finds itself first.",
        facts=[("database images", f"{len(stored):,}"), ("code length", f"{encoder.bits} bits")],
        say=say,
    )
    return DemoReport(NAME, len(stored), tuple(answers), sheet, page, len(answers))


def choose(
    files: Sequence[Path], weights: Path | None, device: str, say: Say
) -> tuple[Encoder, str]:
    """A backbone with ITQ if its weights can be had, else the perceptual hash; and what it is."""
    from retrieval_db.encoder import PerceptualHash, create

    try:
        unfitted = create("itq128", name=NAME, weights=weights, device=device)
        if isinstance(unfitted, PerceptualHash):
            return unfitted, COPIES
        sample = list(files)
        if len(sample) > FIT_ON:
            sample = random.Random(SEED).sample(sample, FIT_ON)
        say(f"   fitting the head on {len(sample):,} photos")
        features = extract_features(
            map(Item, sample), unfitted, progress=steps.counting(say, len(sample))
        )
        fitted = unfitted.fit(features)
    except (EncoderUnavailable, MissingExtra, NotEnoughImages) as error:
        say(f"   {error}")
        return PerceptualHash(64, NAME), COPIES
    return fitted, f"{CONTENT} {fitted.advice or ''}".strip()


def spread(files: Sequence[Path]) -> list[Path]:
    """A few files, evenly spread over all of them."""
    count = min(QUERIES, len(files))
    return [files[place * len(files) // count] for place in range(count)]
