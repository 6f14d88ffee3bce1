"""Images into codes: read, decode, encode, in order and batch by batch; no database."""

from __future__ import annotations

import itertools
import json
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import photos, texts
from ..codes import binarize
from ..encoders import (
    Encoder,
    FeatureExtractor,
    PortableEncoder,
    StreamEncoder,
    StreamExtractor,
    decoder_of,
)
from ..errors import ImageError, UsageError
from ..interchange import CodeSet, joined
from ..photos import Item, Labels, Shard
from . import reading
from .processes import PROCESSES_FROM, Processes
from .profiling import Profile, Stage
from .reading import Prepared, Reader, Skipped, Unchanged, Wanted

# Images that go through the encoder together.
ENCODE_BATCH = 64


@dataclass
class EncodeReport:
    """What became of some image files.

    Attributes:
        encoder: name under which the codes are stored.
        found: image files that were there.
        encoded: of these, new or changed ones that were encoded.
        unchanged: files whose row was up to date.
        skipped: path and reason of each file that could not be read.
        profile: how busy reader, encoder and writer were.
    """

    encoder: str
    found: int = 0
    encoded: int = 0
    unchanged: int = 0
    skipped: list[Skipped] = field(default_factory=list)
    profile: Profile = field(default_factory=Profile)


def absolute(path: Path, root: Path | None) -> str:
    """Where a file lies. Under a root its folder is taken without links, as the root itself is."""
    whole = os.path.abspath(path)
    if root is None:
        return whole
    folder, name = os.path.split(whole)
    return os.path.join(os.path.realpath(folder), name)


def stored_root(root: Path) -> str:
    """The folder that paths are stored relative to, as it is stored itself: without links.

    Raises:
        UsageError: its name is not UTF-8.
    """
    text = os.path.realpath(root)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise UsageError(
            f"The folder {photos.printable(root)} cannot be stored as the root: its name is not "
            "UTF-8. Rename it."
        ) from error
    return text


def stored_path(path: Path, root: Path | None) -> str:
    """The path under which a file is stored: absolute, or relative to `root`.

    Raises:
        ImageError: it is not under `root`, or its name cannot be stored.
    """
    text = absolute(path, root)
    if root is not None:
        if not Path(text).is_relative_to(root):
            raise ImageError(f"{photos.printable(path)}: not under the root {root}")
        text = os.path.relpath(text, root)
    try:
        texts.encoded(text)
    except ValueError as error:
        raise ImageError(
            f"{photos.printable(path)}: its name {error}; rename it to have it indexed"
        ) from error
    return text


def wanted(
    items: Iterable[Item],
    root: Path | None = None,
    labels: Labels | None = None,
    shard: Shard | None = None,
) -> Iterator[Wanted | Skipped]:
    """Images with the names and labels that they are stored with; of this shard only.

    Args:
        labels: overrule what a tar shard says.
    """
    for item in items:
        try:
            name = stored_path(item.path, root)
        except ImageError as error:
            title = photos.printable(item.path)
            if shard is None or shard.holds(title):
                yield title, str(error).removeprefix(f"{title}: ")
            continue
        if shard is None or shard.holds(name):
            label = None if labels is None else labels(item.path)
            yield Wanted(item if label is None else replace(item, label=label), name)


def encode_items(
    images: Iterable[Wanted | Skipped],
    encoder: Encoder,
    report: EncodeReport,
    *,
    progress: Callable[[int], None] = lambda images: None,
    unchanged: Callable[[Wanted], None] = lambda wanted: None,
    workers: int | None = None,
    processes: bool | None = None,
) -> Generator[CodeSet, None, None]:
    """Encode images, up to `ENCODE_BATCH` at a time, in their order.

    Unreadable images are skipped and listed in `report`; so are those whose content hash is
    the one that is known.

    Args:
        progress: called with the number of images since the last call.
        unchanged: called with each image that need not be encoded.
        workers: that read and decode; as many as there are processors.
        processes: whether they are processes; by default where threads would wait for each
            other, if the encoder's preprocessing can be sent there.

    Yields:
        Codes, hashes, labels and features.
    """
    profile = report.profile
    count = workers or reading.processors()
    profile.read.workers = profile.decode.workers = count
    reader = reader_for(encoder, profile, processes, count)
    waiting: deque[list[Prepared]] = deque()

    def fresh() -> Iterator[Prepared]:
        with closing(reading.read(images, reader, count)) as outcomes:
            for outcome in outcomes:
                progress(1)
                if isinstance(outcome, Unchanged):
                    report.unchanged += 1
                    unchanged(outcome.wanted)
                elif isinstance(outcome, Prepared):
                    yield outcome
                else:
                    report.skipped.append(outcome)

    def batches() -> Iterator[NDArray[Any]]:
        for batch in _batched(fresh()):
            waiting.append(batch)
            yield _stack(batch)

    with closing(_codes(encoder, batches(), profile.encode)) as encoded:
        for features, packed in encoded:
            yield _code_set(waiting.popleft(), encoder, features, packed)


def encode_batches(
    items: Iterable[Item],
    encoder: Encoder,
    report: EncodeReport,
    *,
    root: Path | None = None,
    labels: Labels | None = None,
    shard: Shard | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Generator[CodeSet, None, None]:
    """Encode images batch by batch, each batch with the encoder itself; no database.

    Raises:
        ImageError: none of the files could be read.
    """
    root = None if root is None else Path(stored_root(root))
    known: dict[str, Any] = {
        "config": json.dumps(dict(encoder.config)),
        "artifact": encoder.artifact,
        "root": None if root is None else str(root),
    }
    images = counted(wanted(items, root, labels, shard), report)
    with closing(encode_items(images, encoder, report, progress=progress)) as batches:
        for batch in batches:
            report.encoded += len(batch)
            yield replace(batch, **known)
    if not report.encoded:
        raise ImageError("None of the files is a readable image.")


def encode_all(
    items: Iterable[Item],
    encoder: Encoder,
    *,
    root: Path | None = None,
    labels: Labels | None = None,
    shard: Shard | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> tuple[CodeSet, EncodeReport]:
    """Encode images into one set of codes, in memory; see `encode_batches`."""
    report = EncodeReport(encoder.name)
    together = joined(
        list(
            encode_batches(
                items, encoder, report, root=root, labels=labels, shard=shard, progress=progress
            )
        )
    )
    metadata = together.metadata if any(together.metadata or ()) else None
    return replace(together, metadata=metadata), report


def counted(images: Iterable[Wanted | Skipped], report: EncodeReport) -> Iterator[Wanted | Skipped]:
    """The same, counted in `report.found`."""
    for image in images:
        report.found += 1
        yield image


def extract_features(
    items: Iterable[Item],
    extractor: FeatureExtractor,
    *,
    progress: Callable[[int], None] = lambda images: None,
) -> NDArray[np.float32]:
    """The features of images, float32 [N, D], to fit a head on; broken files are left out.

    Raises:
        ImageError: none of the files could be read.
    """
    profile = Profile()
    images = (Wanted(item, "") for item in items)
    count = reading.processors()

    def fresh() -> Iterator[Prepared]:
        reader = reader_for(extractor, profile, None, count)
        with closing(reading.read(images, reader, count)) as outcomes:
            for outcome in outcomes:
                progress(1)
                if isinstance(outcome, Prepared):
                    yield outcome

    batches = map(_stack, _batched(fresh()))
    if isinstance(extractor, StreamExtractor):
        done = list(extractor.feature_stream(batches, profile.encode.add))
    else:
        done = [extractor.features(batch) for batch in batches]
    if not done:
        raise ImageError("None of the files is a readable image.")
    return np.concatenate(done)


def _batched(images: Iterator[Prepared]) -> Iterator[list[Prepared]]:
    while batch := list(itertools.islice(images, ENCODE_BATCH)):
        yield batch


def _stack(batch: Sequence[Prepared]) -> NDArray[Any]:
    return np.stack([image.pixels.array for image in batch])


def reader_for(
    encoder: Encoder | FeatureExtractor, profile: Profile, processes: bool | None, count: int
) -> Reader:
    """Worker processes where they pay and can be had, else threads; threads, too, where the
    encoder decodes by itself."""
    decoder = decoder_of(encoder)
    if decoder is not None:
        return reading.Together(encoder.prepare, profile.read, profile.decode, decoder)
    if processes is None:
        processes = count >= PROCESSES_FROM
    if processes and isinstance(encoder, PortableEncoder) and os.name == "posix":
        return Processes(encoder.preparer, profile.read, profile.decode)
    return reading.Threads(encoder.prepare, profile.read, profile.decode)


def _codes(
    encoder: Encoder, batches: Iterator[NDArray[Any]], stage: Stage
) -> Generator[tuple[NDArray[np.floating] | None, NDArray[np.uint8]], None, None]:
    """Features and packed codes of each batch, in order."""
    if isinstance(encoder, StreamEncoder):
        stage.workers = encoder.stream_workers
        yield from encoder.encode_stream(batches, stage.add)
        return
    for batch in batches:
        with stage.waiting(len(batch)):
            features, outputs = encoder.encode(batch)
        yield features, binarize(outputs)


def _code_set(
    images: Sequence[Prepared],
    encoder: Encoder,
    features: NDArray[np.floating] | None,
    packed: NDArray[np.uint8],
) -> CodeSet:
    return CodeSet(
        codes=packed,
        bits=encoder.bits,
        paths=[image.wanted.name for image in images],
        labels=[image.wanted.item.label for image in images],
        metadata=[image.wanted.item.metadata for image in images],
        content_sha256=np.stack([np.frombuffer(one.pixels.sha256, np.uint8) for one in images]),
        features=features,
        encoder=encoder.name,
        fingerprint=encoder.fingerprint,
    )
