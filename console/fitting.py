"""Heads that learn without labels, fitted on the photos at hand."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from retrieval_db import photos
from retrieval_db.client import Database
from retrieval_db.encoders import Encoder
from retrieval_db.errors import NotEnoughImages, UsageError
from retrieval_db.photos import Item, Sources
from retrieval_db.pipeline import encoding

from .opening import from_database
from .screen import Say, progress_bar

if TYPE_CHECKING:
    from retrieval_db.encoder.network import NetworkEncoder

# A head is fitted on at most this many photos, drawn with a fixed seed.
FIT_ON = 20_000


def fit(unfitted: Encoder, images: Sources, *, say: Say) -> Encoder:
    """Fit a head on up to `FIT_ON` of the photos, whose features it then remembers.

    Raises:
        NotEnoughImages: there are too few.
    """
    from retrieval_db.encoder.memory import Remembering

    total = images.count()
    sample: Iterable[Item] = images
    if total > FIT_ON:
        chosen = set(random.Random(0).sample(range(total), FIT_ON))
        sample = (item for number, item in enumerate(images) if number in chosen)
    with progress_bar(f"Fitting {unfitted.name}", min(total, FIT_ON)) as advance:
        memory = Remembering(cast("NetworkEncoder", unfitted))
        memory.fit(encoding.extract_features(sample, memory, progress=advance))
    if memory.encoder.advice:
        say(memory.encoder.advice)
    return memory


def refit(
    db: Database, name: str, new_name: str | None, *, weights: Path | None, device: str, say: Say
) -> tuple[Encoder, Sources]:
    """A new encoder of the same kind, fitted on all photos of a stored one.

    Returns:
        The encoder, and the photos that are still there, with their labels and metadata.

    Raises:
        UsageError: it has no head, or one that learns from labels; or the new name is taken.
        NotEnoughImages: none of its photos is there, or too few.
    """
    from retrieval_db.encoder.hashing.methods import METHODS

    stored = db.encoder(name)
    old = from_database(db, stored, weights, device)
    if getattr(old, "head", None) is None:
        raise UsageError(f"The encoder {name!r} has nothing to fit.")
    unfitted = replace(cast("NetworkEncoder", old), head=None)
    if METHODS[unfitted.method].fit is None:
        raise UsageError(
            f"{unfitted.method} learns from labels: `retrieval-db train` makes a new encoder of "
            "this kind, and `index --encoder` takes it."
        )
    taken = {encoder.name for encoder in db.encoders()}
    chosen = new_name or next(n for i in range(2, 1000) if (n := f"{name}-{i}") not in taken)
    if chosen in taken:
        raise UsageError(f"There is an encoder {chosen!r} already; choose another --name.")
    known = db.files(stored)
    here = [item for item in known if photos.exists(item.path)]
    if not here:
        raise NotEnoughImages(f"None of the {len(known)} photos of {name!r} can be found here.")
    if len(here) < len(known):
        say(f"{len(known) - len(here)} of {len(known)} photos are not here; they are left out.")
    images = Sources(items=here)
    return fit(replace(unfitted, name=chosen), images, say=say), images
