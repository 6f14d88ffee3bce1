"""Photos into the table: encode and write what is new or has changed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from . import photos
from .database import Connection, translated
from .encoders import Encoder, StoredEncoder
from .encoding import EncodeReport, Labels, absolute, encode_files, stored_path
from .errors import ImageError
from .loading import Writer, finish
from .sql import queries

SQL = queries("indexing")


@dataclass
class IndexReport(EncodeReport):
    """What an index run did.

    Attributes:
        inserted, updated: rows.
        relabelled: rows whose label alone changed.
        gone: stored paths under the folders whose files are no longer there.
        pruned: how many of these rows were deleted.
        moved_from: the root that the stored paths started from before, if that has changed.
        seconds: wall time.
    """

    inserted: int = 0
    updated: int = 0
    relabelled: int = 0
    gone: list[str] = field(default_factory=list)
    pruned: int = 0
    moved_from: str | None = None
    seconds: float = 0.0


def index(
    connection: Connection,
    encoder: Encoder,
    stored: StoredEncoder,
    sources: Sequence[Path],
    *,
    files: Sequence[Path] | None = None,
    labels: Labels | None = None,
    prune: bool = False,
    features: bool = True,
    progress: Callable[[int], None] = lambda files: None,
) -> IndexReport:
    """Bring the rows of an encoder up to date with the image files of some folders.

    Interrupting it loses at most the batch that was being written; the same call continues.

    Args:
        connection: in autocommit mode.
        encoder: fitted, and the one that `stored` is the record of.
        stored: the encoder's row.
        sources: folders or files.
        files: the image files under `sources`, if they were listed already.
        labels: gives the label of a file; None leaves labels as they are.
        prune: delete the rows under `sources` whose files are gone.
        features: whether to store features, where there are any.
        progress: called with the number of files since the last call.

    Raises:
        UsageError: a source does not exist, or there are no image files in them.
    """
    started = time.perf_counter()
    root = None if stored.root is None else Path(stored.root)
    report = IndexReport(encoder.name)
    if files is None:
        files = photos.find_all(sources)
    report.found = len(files)
    with translated(connection):
        known: dict[str, bytes | None] = dict(
            connection.execute(SQL["known"], [stored.id]).fetchall()
        )
        writer = Writer(connection, stored)
        for batch in encode_files(
            files,
            encoder,
            root=root,
            labels=labels or (lambda path: None),
            known=known,
            report=report,
            progress=progress,
        ):
            inserted, updated = writer.write(batch if features else replace(batch, features=None))
            report.encoded += len(batch)
            report.inserted += inserted
            report.updated += updated
        if labels is not None:
            report.relabelled = _relabel(connection, stored, files, root, labels, known)
        report.gone = _gone(known, sources, files, root)
        if prune and report.gone:
            report.pruned = connection.execute(SQL["prune"], [stored.id, report.gone]).rowcount
        finish(connection, stored, report.inserted + report.updated)
    report.seconds = time.perf_counter() - started
    return report


def _relabel(
    connection: Connection,
    stored: StoredEncoder,
    files: Sequence[Path],
    root: Path | None,
    labels: Labels,
    known: Mapping[str, bytes | None],
) -> int:
    """Give unchanged images the labels they have now; new ones were written with theirs."""
    given = {}
    for path in files:
        try:
            name = stored_path(path, root)
        except ImageError:
            continue
        label = labels(path)
        if name in known and label is not None:
            given[name] = label
    values = [list(given), list(given.values()), stored.id]
    return connection.execute(SQL["relabel"], values).rowcount if given else 0


def _gone(
    known: Mapping[str, object], sources: Sequence[Path], files: Sequence[Path], root: Path | None
) -> list[str]:
    """Stored paths under the sources that no longer have a file."""
    there = {absolute(path, root) for path in files}
    whole = os.path.abspath if root is None else os.path.realpath
    folders = tuple(os.path.join(whole(source), "") for source in sources)
    base = str(root or "")
    return [
        name
        for name in known
        if (place := os.path.join(base, name)).startswith(folders)
        and place not in there
        and _is_gone(place)
    ]


def _is_gone(path: str) -> bool:
    """Whether it is certain that there is no such file; one behind a closed door may be."""
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False
