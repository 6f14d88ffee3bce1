"""Photos into the table: encode and write what is new or has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from itertools import islice
from pathlib import Path

from .. import photos
from ..database import Connection, insistent, translated
from ..encoders import SQL as ENCODERS
from ..encoders import Encoder, StoredEncoder, takes_features
from ..loading import finish
from ..photos import Item, Labels, Shard
from ..sql import queries
from .background import BackgroundWriter
from .encoding import EncodeReport, counted, encode_items, wanted
from .reading import Skipped, Wanted

SQL = queries("indexing")

# Images that the database is asked about in one statement.
ASK = 512


@dataclass
class IndexReport(EncodeReport):
    """What an index run did.

    Attributes:
        inserted, updated: rows.
        repeated: images whose path came again soon after: the last one counts.
        relabelled: rows whose label or metadata alone changed.
        gone: stored paths under the folders whose files are no longer there.
        pruned: how many of these rows were deleted.
        moved_from: the root that the stored paths started from before, if that has changed.
        seconds: wall time.
    """

    inserted: int = 0
    updated: int = 0
    repeated: int = 0
    relabelled: int = 0
    gone: list[str] = field(default_factory=list)
    pruned: int = 0
    moved_from: str | None = None
    seconds: float = 0.0


def index(
    connection: Connection,
    encoder: Encoder,
    stored: StoredEncoder,
    items: Iterable[Item],
    *,
    folders: Sequence[Path] = (),
    labels: Labels | None = None,
    shard: Shard | None = None,
    prune: bool = False,
    features: bool = True,
    workers: int | None = None,
    processes: bool | None = None,
    progress: Callable[[int], None] = lambda files: None,
) -> IndexReport:
    """Bring the rows of an encoder up to date with image files.

    Reading, encoding and writing run beside each other, each as fast as the slowest lets it.
    Interrupting it loses at most what was not committed, `background.IN_FLIGHT` images; the
    same call continues.

    Args:
        connection: in autocommit mode; the thread that writes has another one like it.
        encoder: fitted, and the one that `stored` is the record of.
        stored: the encoder's row.
        items: the images.
        folders: the folders (or tar shards) that `items` are all images of: rows under them
            whose files are not there are reported as gone.
        labels: gives the label of a file; None leaves labels as they are.
        shard: take only these images.
        prune: delete the rows under `folders` whose files are gone.
        features: whether to store features, where there are any; also of images that were
            stored without one.
        workers, processes: as in `encode_items`.
        progress: called with the number of files since the last call.

    Raises:
        RetrievalError: the database refuses, or is gone; what was committed stays.
    """
    started = time.perf_counter()
    root = None if stored.root is None else Path(stored.root)
    report = IndexReport(encoder.name)
    with translated(connection):
        with_features = features and encoder.feature_dim is not None
        known = _Known(connection, stored, with_features and takes_features(connection))
        images = known.of(counted(wanted(items, root, labels, shard), report))
        with (
            BackgroundWriter(connection, stored, report.profile.write) as writer,
            closing(
                encode_items(
                    images,
                    encoder,
                    report,
                    progress=progress,
                    unchanged=known.compare,
                    workers=workers,
                    processes=processes,
                )
            ) as batches,
        ):
            for batch in batches:
                report.encoded += len(batch)
                writer.put(batch if features else replace(batch, features=None))
        report.profile.seconds = time.perf_counter() - started
        report.inserted, report.updated = writer.inserted, writer.updated
        report.repeated = report.encoded - report.inserted - report.updated
        report.relabelled = known.relabel()
        report.gone = list(_gone(connection, stored, folders, root, shard))
        if prune and report.gone:
            report.pruned = _changed(connection, "prune", [stored.id, report.gone])
        finish(connection, stored, report.inserted + report.updated)
    report.seconds = time.perf_counter() - started
    return report


def stored_files(connection: Connection, stored: StoredEncoder) -> list[Item]:
    """The image files of an encoder, wherever they are, with their labels and metadata."""
    with translated(connection):
        rows = connection.execute(SQL["files"], [stored.id]).fetchall()
    return [
        Item(Path(stored.root or "", path), label=label, metadata=metadata)
        for path, label, metadata in rows
    ]


class _Known:
    """What is stored of an encoder's images already, asked for as they come."""

    def __init__(self, connection: Connection, stored: StoredEncoder, with_features: bool) -> None:
        self._connection = connection
        self._query = SQL["known_with_features" if with_features else "known"]
        self._encoder = stored.id
        row = connection.execute(ENCODERS["any_image"], [stored.id]).fetchone()
        self._any = row is not None and bool(row[0])
        self._told: dict[str, tuple[str | None, str | None]] = {}
        self._relabelled = 0

    def of(self, images: Iterator[Wanted | Skipped]) -> Iterator[Wanted | Skipped]:
        """The images, each with the hash that is stored of it."""
        if not self._any:
            yield from images
            return
        while part := list(islice(images, ASK)):
            names = [one.name for one in part if isinstance(one, Wanted)]
            rows = self._connection.execute(self._query, [self._encoder, names]).fetchall()
            stored = {name: (digest, label) for name, digest, label in rows}
            for one in part:
                if isinstance(one, Wanted) and one.name in stored:
                    digest, label = stored[one.name]
                    yield replace(one, known=digest, known_label=label)
                else:
                    yield one

    def compare(self, image: Wanted) -> None:
        """An unchanged image gets the label and metadata of now; new ones are written with them."""
        label, metadata = image.item.label or None, image.item.metadata
        # Whether metadata are the same, PostgreSQL knows best.
        if metadata is not None or label not in (None, image.known_label):
            self._told[image.name] = label, metadata
            if len(self._told) >= ASK:
                self.relabel()

    def relabel(self) -> int:
        """Store the new labels and metadata; returns how many rows have changed so far."""
        if self._told:
            labels, metadata = map(list, zip(*self._told.values(), strict=True))
            values = [list(self._told), labels, metadata, self._encoder]
            self._relabelled += _changed(self._connection, "relabel", values)
            self._told = {}
        return self._relabelled


def _changed(connection: Connection, query: str, values: Sequence[object]) -> int:
    """How many rows a statement has changed."""
    return insistent(lambda: connection.execute(SQL[query], values).rowcount)


def _gone(
    connection: Connection,
    stored: StoredEncoder,
    folders: Sequence[Path],
    root: Path | None,
    shard: Shard | None,
) -> Iterator[str]:
    """Stored paths under the folders that no longer have a file."""
    whole = os.path.abspath if root is None else os.path.realpath
    under = tuple(os.path.join(whole(folder), "") for folder in folders)
    if not under:
        return
    base = str(root or "")
    last = ""
    while rows := connection.execute(SQL["paths"], [stored.id, last]).fetchall():
        for (name,) in rows:
            place = os.path.join(base, name)
            mine = shard is None or shard.holds(name)
            if mine and place.startswith(under) and photos.is_gone(Path(place)):
                yield name
        last = rows[-1][0]
