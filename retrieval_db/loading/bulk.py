"""The bulk load: codes of a file or in memory, looked through first, then stored batch by batch."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from .. import encoders, layouts
from ..database import Connection, in_transaction, translated
from ..encoders import StoredEncoder
from ..errors import FormatError, MissingExtension, UsageError, WrongWidth
from ..interchange import CodeSet, Held, Source
from ..sql import queries
from . import crew
from .columns import stored_json, stored_text
from .writer import NO_FEATURES, Writer

SQL = queries("loading")

# Rows of one transaction: enough to make its cost vanish, few enough to lose little.
BATCH = 20_000

# From this many new rows on, the statistics and the visibility map are worth a pass.
VACUUM_FROM = 1_000

CHANGED = "The file has changed since it was looked through. Run the same command again."


@dataclass(frozen=True)
class LoadReport:
    """What a load did.

    Attributes:
        encoder: name under which the codes are stored.
        inserted: new rows.
        updated: rows whose path was there already.
        seconds: wall time of the whole load.
        repeated: rows that were passed over, because their path came again soon after.
    """

    encoder: str
    inserted: int
    updated: int
    seconds: float
    repeated: int = 0


@dataclass(frozen=True)
class Survey:
    """What a source holds, read through once before anything is written.

    Attributes:
        rows: how many codes.
        head: no rows, but what is known of their encoder: name, bits, fingerprint, root…
        first: up to three of the codes, with what belongs to them.
        labels, hashes, metadata, features: how many codes have one.
        remarks: what was left out, and why.
    """

    rows: int
    head: CodeSet
    first: CodeSet
    labels: int
    hashes: int
    metadata: int
    features: int
    remarks: tuple[str, ...]


def survey(
    source: CodeSet | Source, *, progress: Callable[[int], None] = lambda rows: None
) -> Survey:
    """Read a source through, and see that every row of it can be stored.

    Raises:
        FormatError, CodeError: it cannot be read, or a row of it cannot be stored.
    """
    if isinstance(source, CodeSet):
        source = Held(source)
    counts = dict.fromkeys(("rows", "labels", "hashes", "metadata", "features"), 0)
    first: CodeSet | None = None
    for batch in source.batches(BATCH):
        for path in batch.paths:
            stored_text("path", path)
        for label in batch.labels or ():
            stored_text("label", label)
        for metadata in batch.metadata or ():
            stored_json(metadata)
        if first is None:
            first = batch.take(slice(0, 3))
        _check_alike(first, batch)
        if first.features is None and batch.features is not None:
            first = replace(first, features=np.zeros((len(first), batch.features.shape[1])))
        counts["rows"] += len(batch)
        counts["labels"] += sum(map(bool, batch.labels or ()))
        counts["hashes"] += int(batch.known_hashes.sum())
        counts["metadata"] += sum(map(bool, batch.metadata or ()))
        counts["features"] += int(batch.known_features.sum())
        progress(len(batch))
    assert first is not None
    return Survey(
        head=first.take(slice(0, 0)), first=first, remarks=tuple(source.remarks), **counts
    )


def load(
    connection: Connection,
    items: CodeSet | Source,
    *,
    encoder: str | None = None,
    features: bool = True,
    surveyed: Survey | None = None,
    progress: Callable[[int], None] = lambda rows: None,
) -> LoadReport:
    """Bulk-load codes: register their encoder, write whole batches, then vacuum and analyze.

    A source is read twice, and never held: once to see that all of it can be stored, once to
    store it. An interrupted load leaves whole batches; the same call continues it. A large one is
    written over several connections at once, where the server has them to give.

    Args:
        connection: in autocommit mode.
        items: the codes, in memory or in a file.
        encoder: the encoder's name; overrides the one that `items` gives.
        features: whether to store features, if there are any.
        surveyed: what `survey` found, if it was asked before.
        progress: called after each batch with its number of rows.

    Raises:
        UsageError: nobody names the encoder, or its paths start from another folder.
        FormatError: a row that cannot be stored; nothing has been written then. Or the file has
            changed since it was surveyed; nothing of another encoder has been written then.
        EncoderConflict, WrongWidth: see `encoders.register`.
        MissingExtension: features without pgvector.
    """
    started = time.perf_counter()
    found = surveyed or survey(items)
    source = Held(items) if isinstance(items, CodeSet) else items
    head = found.head if features else without_features(found.head)
    name = encoder or head.encoder
    if not name:
        raise UsageError("The file does not name the encoder of its codes: give --encoder NAME.")
    with translated(connection):
        if head.features is not None and not encoders.takes_features(connection):
            raise MissingExtension(NO_FEATURES)
        stored = _register(connection, name, head)
        layouts.make_way(connection, stored, found.rows)
        batches = _as_surveyed(source, found)
        kept = (batch if features else without_features(batch) for batch in batches)
        helpers = crew.workers() - 1 if found.rows >= layouts.BULK else 0
        with crew.more_connections(connection, helpers) as others:
            writers = [Writer(each, stored) for each in (connection, *others)]
            inserted, updated = crew.write_all(writers, kept, progress)
        finish(connection, stored, inserted + updated)
    return LoadReport(
        stored.name,
        inserted,
        updated,
        time.perf_counter() - started,
        repeated=found.rows - inserted - updated,
    )


def _as_surveyed(source: Source, found: Survey) -> Iterator[CodeSet]:
    """The batches, as long as they are those of the file that was looked through.

    Raises:
        FormatError: it has been replaced meanwhile, perhaps by codes of another encoder.
    """
    rows = 0
    for batch in source.batches(BATCH):
        rows += len(batch)
        if rows > found.rows or not _same_encoder(batch, found.head):
            raise FormatError(CHANGED)
        yield batch
    if rows != found.rows:
        raise FormatError(CHANGED)


def _same_encoder(one: CodeSet, other: CodeSet) -> bool:
    names = ("bits", "encoder", "fingerprint", "config", "artifact", "root")
    return all(getattr(one, name) == getattr(other, name) for name in names)


def without_features(items: CodeSet) -> CodeSet:
    """The same codes, their features left out."""
    return replace(items, features=None, has_feature=None)


def _check_alike(first: CodeSet, batch: CodeSet) -> None:
    """See that a later batch is of the same encoder."""
    if batch.bits != first.bits:
        raise WrongWidth(f"Codes of {first.bits} and of {batch.bits} bits in one file.")
    if first.features is not None and batch.features is not None:
        dimensions = first.features.shape[1], batch.features.shape[1]
        if dimensions[0] != dimensions[1]:
            raise WrongWidth("Features of {} and of {} dimensions in one file.".format(*dimensions))


def finish(connection: Connection, encoder: StoredEncoder, rows: int) -> None:
    """After `rows` rows were written: index, vacuum and analyze, where that is worth it.

    In a caller's transaction nothing can be vacuumed: that is left to autovacuum.
    """
    rebuilt = bool(rows) and layouts.settle(connection, encoder)
    if rows >= VACUUM_FROM:
        with connection.transaction():
            connection.execute(SQL["lasting"])
            connection.execute(SQL["analyze"])
        if not in_transaction(connection):
            connection.execute(SQL["vacuum"])
    if rebuilt:
        layouts.warm(connection, encoder)


def _register(connection: Connection, name: str, items: CodeSet) -> StoredEncoder:
    """Find or store the encoder of codes."""
    try:
        config = json.loads(items.config) if items.config else {}
    except ValueError as error:
        raise FormatError("The encoder_config is not JSON.") from error
    if not isinstance(config, dict):
        raise FormatError("The encoder_config is not a JSON object.")
    stored = encoders.register(
        connection,
        name,
        items.bits,
        fingerprint=items.fingerprint,
        feature_dim=None if items.features is None else items.features.shape[1],
        config=config,
        artifact=items.artifact,
        root=items.root,
    )
    return stored if items.root is None else encoders.rooted(connection, stored, items.root)
