"""Photos into the table: find, decode, encode, write; only what is new or has changed."""

from __future__ import annotations

import json
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from . import photos
from .codes import binarize
from .database import Connection, translated
from .encoders import Encoder, FeatureExtractor, StoredEncoder
from .errors import ImageError
from .interchange import CodeSet
from .loading import Writer, finish
from .sql import queries

SQL = queries("indexing")

# Images that go through the encoder together, and rows of one transaction.
ENCODE_BATCH = 64
WRITE_BATCH = 512

T = TypeVar("T")

Labels = Callable[[Path], str | None]


@dataclass(frozen=True)
class Prepared:
    """An image file, read and made ready for the encoder.

    Attributes:
        path: as it is stored.
        sha256: of the file's bytes, 32 bytes.
        array: what `Encoder.prepare` returned.
        label: or None.
    """

    path: str
    sha256: bytes
    array: NDArray[Any]
    label: str | None


@dataclass
class IndexReport:
    """What an index run did.

    Attributes:
        encoder: name under which the codes are stored.
        found: image files that were there.
        encoded: of these, new or changed ones that were encoded.
        inserted, updated: rows.
        unchanged: files whose row was up to date.
        relabelled: rows whose label alone changed.
        skipped: path and reason of each file that could not be read.
        gone: stored paths under the folders whose files are no longer there.
        pruned: how many of these rows were deleted.
        seconds: wall time.
    """

    encoder: str
    found: int = 0
    encoded: int = 0
    inserted: int = 0
    updated: int = 0
    unchanged: int = 0
    relabelled: int = 0
    skipped: list[tuple[str, str]] = field(default_factory=list)
    gone: list[str] = field(default_factory=list)
    pruned: int = 0
    seconds: float = 0.0


def stored_path(path: Path, root: Path | None) -> str:
    """The path under which a file is stored: absolute, or relative to `root`.

    Raises:
        ImageError: it is not under `root`, or its name is not UTF-8.
    """
    absolute = Path(os.path.abspath(path))
    if root is not None:
        try:
            absolute = absolute.relative_to(root)
        except ValueError as error:
            raise ImageError(f"{photos.printable(path)}: not under the root {root}") from error
    text = str(absolute)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ImageError(
            f"{photos.printable(path)}: its name is not UTF-8; rename it to have it indexed"
        ) from error
    return text


def encode_files(
    files: Sequence[Path],
    encoder: Encoder,
    *,
    root: Path | None = None,
    labels: Labels = lambda path: None,
    known: Mapping[str, bytes | None] | None = None,
    report: IndexReport | None = None,
    progress: Callable[[int], None] = lambda files: None,
    workers: int | None = None,
) -> Iterator[CodeSet]:
    """Encode image files, batch by batch, in their order.

    Unreadable files are skipped and listed in `report`; so are files whose content hash is
    the one in `known`, which maps stored paths to hashes.

    Yields:
        Codes, hashes, labels and features of up to `WRITE_BATCH` images.
    """
    report = report if report is not None else IndexReport(encoder.name)

    def read(path: Path) -> Prepared | ImageError | None:
        try:
            name = stored_path(path, root)
            data = photos.content(path)
            digest = photos.sha256(data)
            if known is not None and known.get(name) == digest:
                return None
            return Prepared(name, digest, encoder.prepare(photos.decode(data, path)), labels(path))
        except ImageError as error:
            return error

    waiting: list[Prepared] = []
    done: list[CodeSet] = []
    for outcome in _in_order(files, read, workers or os.cpu_count() or 1):
        progress(1)
        if outcome is None:
            report.unchanged += 1
        elif isinstance(outcome, ImageError):
            name, _, reason = str(outcome).rpartition(": ")
            report.skipped.append((name, reason))
        else:
            waiting.append(outcome)
        if len(waiting) == ENCODE_BATCH:
            done.append(_encode(waiting, encoder))
            waiting = []
        if len(done) * ENCODE_BATCH >= WRITE_BATCH:
            yield _joined(done)
            done = []
    if waiting:
        done.append(_encode(waiting, encoder))
    if done:
        yield _joined(done)


def encode_all(
    files: Sequence[Path],
    encoder: Encoder,
    *,
    root: Path | None = None,
    labels: Labels | None = None,
    progress: Callable[[int], None] = lambda files: None,
) -> tuple[CodeSet, IndexReport]:
    """Encode image files into one set of codes, with the encoder itself; no database.

    Raises:
        ImageError: none of the files could be read.
    """
    report = IndexReport(encoder.name, found=len(files))
    parts = list(
        encode_files(
            files,
            encoder,
            root=None if root is None else root.resolve(),
            labels=labels or (lambda path: None),
            report=report,
            progress=progress,
        )
    )
    if not parts:
        raise ImageError("None of the files is a readable image.")
    whole = replace(
        _joined(parts), config=json.dumps(dict(encoder.config)), artifact=encoder.artifact
    )
    report.encoded = len(whole)
    return whole, report


def extract_features(
    files: Sequence[Path],
    extractor: FeatureExtractor,
    *,
    progress: Callable[[int], None] = lambda files: None,
) -> NDArray[np.float32]:
    """The features of image files, float32 [N, D], to fit a head on; broken files are left out.

    Raises:
        ImageError: none of the files could be read.
    """

    def read(path: Path) -> NDArray[Any] | None:
        try:
            return extractor.prepare(photos.decode(photos.content(path), path))
        except ImageError:
            return None

    done: list[NDArray[np.float32]] = []
    waiting: list[NDArray[Any]] = []
    for array in _in_order(files, read, os.cpu_count() or 1):
        progress(1)
        if array is not None:
            waiting.append(array)
        if len(waiting) == ENCODE_BATCH:
            done.append(extractor.features(np.stack(waiting)))
            waiting = []
    if waiting:
        done.append(extractor.features(np.stack(waiting)))
    if not done:
        raise ImageError("None of the files is a readable image.")
    return np.concatenate(done)


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
    """
    started = time.perf_counter()
    root = None if stored.root is None else Path(stored.root)
    report = IndexReport(encoder.name)
    if files is None:
        files = [path for source in sources for path in photos.find(source)]
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
        finish(connection, report.inserted + report.updated)
    report.seconds = time.perf_counter() - started
    return report


def _in_order(files: Iterable[Path], read: Callable[[Path], T], workers: int) -> Iterator[T]:
    """Read files ahead in threads (Pillow decodes without the GIL), and yield in order."""
    ahead: deque[Future[T]] = deque()
    pool = ThreadPoolExecutor(workers)
    try:
        for path in files:
            ahead.append(pool.submit(read, path))
            if len(ahead) > 2 * ENCODE_BATCH:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _encode(images: Sequence[Prepared], encoder: Encoder) -> CodeSet:
    features, outputs = encoder.encode(np.stack([image.array for image in images]))
    return CodeSet(
        codes=binarize(outputs),
        bits=encoder.bits,
        paths=[image.path for image in images],
        labels=[image.label for image in images],
        content_sha256=np.stack([np.frombuffer(image.sha256, np.uint8) for image in images]),
        features=features,
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
    )


def _joined(parts: Sequence[CodeSet]) -> CodeSet:
    first = parts[0]
    hashes = [part.content_sha256 for part in parts if part.content_sha256 is not None]
    features = [part.features for part in parts if part.features is not None]
    return CodeSet(
        codes=np.concatenate([part.codes for part in parts]),
        bits=first.bits,
        paths=[path for part in parts for path in part.paths],
        labels=[label for part in parts for label in part.labels or ()],
        content_sha256=np.concatenate(hashes),
        features=np.concatenate(features) if features else None,
        encoder=first.encoder,
        fingerprint=first.fingerprint,
    )


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
    there = {os.path.abspath(path) for path in files}
    folders = tuple(os.path.join(os.path.abspath(source), "") for source in sources)
    base = str(root or "")
    return [
        name
        for name in known
        if (absolute := os.path.join(base, name)).startswith(folders)
        and absolute not in there
        and not os.path.exists(absolute)
    ]
