"""Image files into codes: read, decode, encode, in order and batch by batch; no database."""

from __future__ import annotations

import json
import os
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
from .encoders import Encoder, FeatureExtractor
from .errors import ImageError, RetrievalError
from .interchange import CodeSet

# Images that go through the encoder together, and rows of one transaction.
ENCODE_BATCH = 64
WRITE_BATCH = 512

T = TypeVar("T")

Labels = Callable[[Path], str | None]

# A file that could not be read, and why.
Skipped = tuple[str, str]


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
class EncodeReport:
    """What became of some image files.

    Attributes:
        encoder: name under which the codes are stored.
        found: image files that were there.
        encoded: of these, new or changed ones that were encoded.
        unchanged: files whose row was up to date.
        skipped: path and reason of each file that could not be read.
    """

    encoder: str
    found: int = 0
    encoded: int = 0
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)


def absolute(path: Path, root: Path | None) -> str:
    """Where a file lies. Under a root its folder is taken without links, as the root itself is."""
    whole = os.path.abspath(path)
    if root is None:
        return whole
    folder, name = os.path.split(whole)
    return os.path.join(os.path.realpath(folder), name)


def stored_path(path: Path, root: Path | None) -> str:
    """The path under which a file is stored: absolute, or relative to `root`.

    Raises:
        ImageError: it is not under `root`, or its name is not UTF-8.
    """
    text = absolute(path, root)
    if root is not None:
        if not Path(text).is_relative_to(root):
            raise ImageError(f"{photos.printable(path)}: not under the root {root}")
        text = os.path.relpath(text, root)
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
    report: EncodeReport | None = None,
    progress: Callable[[int], None] = lambda files: None,
    workers: int | None = None,
) -> Iterator[CodeSet]:
    """Encode image files, batch by batch, in their order.

    Unreadable files are skipped and listed in `report`; so are files whose content hash is
    the one in `known`, which maps stored paths to hashes.

    Yields:
        Codes, hashes, labels and features of up to `WRITE_BATCH` images.
    """
    report = report if report is not None else EncodeReport(encoder.name)

    def read(path: Path) -> Prepared | Skipped | None:
        try:
            name = stored_path(path, root)
            data = photos.content(path)
            digest = photos.sha256(data)
            if known is not None and known.get(name) == digest:
                return None
            return Prepared(name, digest, _prepared(encoder, data, path), labels(path))
        except ImageError as error:
            title = photos.printable(path)
            return title, str(error).removeprefix(f"{title}: ")

    waiting: list[Prepared] = []
    done: list[CodeSet] = []
    for outcome in _in_order(files, read, workers or os.cpu_count() or 1):
        progress(1)
        if outcome is None:
            report.unchanged += 1
        elif isinstance(outcome, Prepared):
            waiting.append(outcome)
        else:
            report.skipped.append(outcome)
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
) -> tuple[CodeSet, EncodeReport]:
    """Encode image files into one set of codes, with the encoder itself; no database.

    Raises:
        ImageError: none of the files could be read.
    """
    root = None if root is None else root.resolve()
    report = EncodeReport(encoder.name, found=len(files))
    parts = list(
        encode_files(
            files,
            encoder,
            root=root,
            labels=labels or (lambda path: None),
            report=report,
            progress=progress,
        )
    )
    if not parts:
        raise ImageError("None of the files is a readable image.")
    whole = replace(
        _joined(parts),
        config=json.dumps(dict(encoder.config)),
        artifact=encoder.artifact,
        root=None if root is None else str(root),
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
            return _prepared(extractor, photos.content(path), path)
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


def _prepared(encoder: Encoder | FeatureExtractor, data: bytes, path: Path) -> NDArray[Any]:
    """Decode and prepare one image; whatever it does to the encoder, the others go on."""
    image = photos.decode(data, path)
    try:
        return encoder.prepare(image)
    except (ImportError, RetrievalError):
        raise
    except Exception as error:
        raise ImageError(f"{photos.printable(path)}: cannot be prepared ({error})") from error


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
