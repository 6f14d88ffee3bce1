"""Which encoder a command uses: a stored one, a file's, or a new one fitted on the photos."""

from __future__ import annotations

import os
import time
from pathlib import Path

from retrieval_db.client import Database, connect
from retrieval_db.database import ENVIRONMENT
from retrieval_db.encoders import Encoder, StoredEncoder
from retrieval_db.photos import Shard, Sources

from . import contradictions
from .fitting import fit
from .opening import from_database, make
from .screen import Say
from .settings import Settings, is_file, wanted_name


def for_indexing(
    db: Database, images: Sources, settings: Settings, *, say: Say, shard: Shard | None = None
) -> Encoder:
    """The encoder of that stored name or file, or a new one of that method.

    A head that needs fitting is fitted once, on these photos, and then frozen: a stored
    encoder of the same name is used again. Of several machines that share a job the first
    one fits, and the others wait for it.
    """
    from retrieval_db.encoder.names import SHIPPED

    stored = {encoder.name: encoder for encoder in db.encoders()}
    name = wanted_name(settings)
    # A ready-made encoder under another encoder's name is refused when it is registered.
    other = settings.spec in SHIPPED and settings.spec != name
    if name not in stored or is_file(settings.spec) or other:
        made = make(settings)
        if made.fitted:
            return made
        if shard is None or shard.number == 1:
            return fit(made, images, say=say)
        say(f"Waiting for part 1/{shard.of} to fit and store {name!r}.")
        while name not in stored:
            time.sleep(1)
            stored = {encoder.name: encoder for encoder in db.encoders()}
    contradictions.check(stored[name], settings)
    say(f"Using the stored encoder {name!r}, as it was first fitted.")
    return from_database(db, stored[name], settings.network.weights, settings.device)


def for_encoding(database: str | None, images: Sources, settings: Settings, *, say: Say) -> Encoder:
    """As `for_indexing`, but a database is asked only if the user named one."""
    if names_database(database):
        with connect(database, report=say) as db:
            return for_indexing(db, images, settings, say=say)
    made = make(settings)
    return made if made.fitted else fit(made, images, say=say)


def for_query(
    db: Database, spec: str | None, weights: Path | None, device: str
) -> tuple[StoredEncoder, Encoder]:
    """The encoder to search photos with: a stored one, by name or as the only one."""
    stored = db.encoder(spec)
    return stored, from_database(db, stored, weights, device)


def names_database(database: str | None) -> bool:
    """Whether the user named a database, by option or environment."""
    return bool(database) or any(os.environ.get(name) for name in ENVIRONMENT)
