"""What the user looks for, gathered from all the ways to say it, and its answers."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from retrieval_db import codes, jsonb, photos, search
from retrieval_db.client import Database
from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import CodeError, ImageError, UnknownImage, UsageError
from retrieval_db.interchange import read_codes
from retrieval_db.photos import Sources
from retrieval_db.pipeline import encoding
from retrieval_db.presentation import Answer
from retrieval_db.search import Query, flat, query_photo

from . import choosing
from .screen import Say

# The options of a search that SQL knows by the same names.
SQL_OPTIONS = ("radius", "labels", "metadata", "pool", "metric", "max_candidates", "max_ms")


@dataclass(frozen=True)
class Wanted:
    """The queries of one command, in all their forms."""

    photos: tuple[Path, ...] = ()
    list_file: Path | None = None
    codes_file: Path | None = None
    ids: tuple[int, ...] = ()
    paths: tuple[str, ...] = ()
    codes: tuple[str, ...] = ()

    def photo_files(self) -> list[Path]:
        """The photos, folders searched through and the list read as `index` does."""
        files = [file for source in self.photos for file in photos.find(source)]
        if self.list_file is not None:
            files += [item.path for item in Sources(lists=[self.list_file])]
        return files


def answers(
    db: Database,
    wanted: Wanted,
    *,
    encoder: str | None,
    weights: Path | None,
    device: str,
    say: Say,
    **options: Any,
) -> Iterator[Answer]:
    """Search for each query in turn; unreadable photos are reported and passed over.

    Raises:
        UsageError: nothing is looked for.
        ImageError: no query photo could be read.
    """
    nothing = True
    for title, file, stored, query in queries(db, wanted, encoder, weights, device, say):
        nothing = False
        if options["source"] == "memory":
            in_memory(db, stored.name, device, say)
        result = db.search(query, encoder=stored.name, **options)
        yield Answer(
            title,
            file,
            query.words,
            result,
            stored.root,
            feature=query.feature,
            options={name: options[name] for name in SQL_OPTIONS if options[name] is not None}
            | {"k": options["k"]},
        )
    if nothing and wanted == Wanted():
        raise UsageError("Say what to look for: a photo, a folder, --id, --path or --code.")


def in_memory(db: Database, encoder: str, device: str, say: Say) -> None:
    """Read the codes of an encoder, unless they are in memory already."""
    held = db.memory_source(encoder)
    if held.full_reads:
        return
    if (index := flat_index(device)) is not None:
        held = db.memory_source(encoder, index=index)
    held.refresh()
    say(f"Read {len(held)} codes of {encoder} into memory; {held.index_name} compares them.")


def flat_index(device: str) -> flat.Factory | None:
    """What searches codes in memory on a device; None for what the library takes by itself.

    `auto` does not load torch for this alone, which takes longer than most searches.
    """
    if device != "cuda" and (device != "auto" or "torch" not in sys.modules):
        return None
    from retrieval_db.encoder.devices.flat import TorchIndex, has_cuda

    if device == "auto" and not has_cuda():
        return None
    return partial(TorchIndex, device=device)


def queries(
    db: Database,
    wanted: Wanted,
    encoder: str | None,
    weights: Path | None,
    device: str,
    say: Say,
) -> Iterator[tuple[str, Path | None, StoredEncoder, Query]]:
    """Each query with its title, its file if it has one, and the encoder of its code."""
    files = wanted.photo_files()
    if files:
        stored, network = choosing.for_query(db, encoder, weights, device)
        failures = 0
        for file in files:
            try:
                yield photos.printable(file), file, stored, query_photo(file, network)
            except ImageError as error:
                failures += 1
                say(f"Skipped {error}")
        if failures == len(files):
            raise ImageError("None of the query photos could be read.")
    elif wanted.photos or wanted.list_file:
        raise UsageError("There are no image files among the queries.")
    for number in wanted.ids:
        query = search.query_by_id(db.connection, number)
        if encoder not in (None, query.encoder):
            raise UsageError(
                f"The image {number} has a code of {query.encoder!r}, not of {encoder!r}."
            )
        stored = db.encoder(query.encoder)
        place = Path(stored.root or "", search.path_of(db.connection, number))
        yield f"id {number}", place, stored, query
    if wanted.paths or wanted.codes or wanted.codes_file:
        stored = db.encoder(encoder or codes_encoder(wanted.codes_file))
        for path in wanted.paths:
            name, query = by_path(db, stored, path)
            yield path, Path(stored.root or "", name), stored, query
        for text in wanted.codes:
            try:
                words = codes.words_of(codes.parse(text, stored.bits), stored.bits)
            except CodeError as error:
                raise UsageError(f"--code {text}: {error}") from error
            yield text, None, stored, Query(words)
        if wanted.codes_file:
            yield from file_queries(wanted.codes_file, stored)


def codes_of(
    db: Database, wanted: Wanted, encoder: str | None
) -> list[tuple[StoredEncoder, Query]]:
    """Queries that are no photos, all of one encoder.

    Raises:
        UsageError: they are of several.
    """
    found = [
        (stored, query)
        for _, _, stored, query in queries(db, wanted, encoder, None, "cpu", lambda message: None)
    ]
    if len({stored.name for stored, _ in found}) > 1:
        raise UsageError("The images looked for are of several encoders; take one at a time.")
    return found


def codes_encoder(file: Path | None) -> str | None:
    """The encoder that a file of codes names."""
    return None if file is None else read_codes(file).encoder


def file_queries(
    file: Path, stored: StoredEncoder
) -> Iterator[tuple[str, Path | None, StoredEncoder, Query]]:
    """The codes of a file as queries.

    Raises:
        EncoderConflict: they were made by another encoder.
    """
    items = read_codes(file)
    stored.check_same(items.bits, items.fingerprint)
    for row, (path, known) in enumerate(zip(items.paths, items.known_features, strict=True)):
        features = items.features if known else None
        feature = None if features is None else features[row].astype("float32")
        yield path, None, stored, Query(codes.words_of(items.codes[row], items.bits), feature)


def by_path(db: Database, stored: StoredEncoder, path: str) -> tuple[str, Query]:
    """A stored image by its path as it is stored, or from where the user stands.

    Returns:
        The stored path, and the query.

    Raises:
        UnknownImage: there is no such image.
    """
    try:
        return path, search.query_by_path(db.connection, stored, path)
    except UnknownImage:
        with contextlib.suppress(UnknownImage, ImageError):
            name = encoding.stored_path(Path(path), Path(stored.root) if stored.root else None)
            return name, search.query_by_path(db.connection, stored, name)
        raise


def metadata(text: str | None) -> dict[str, Any] | None:
    """A JSON object from the command line.

    Raises:
        UsageError: it is not one.
    """
    if text is None:
        return None
    try:
        value = jsonb.parse(text)
    except ValueError as error:
        raise UsageError(
            f'--metadata is a JSON object, such as {{"year": 2024}}; {error}.'
        ) from error
    if not isinstance(value, dict):
        raise UsageError('--metadata is a JSON object, such as {"year": 2024}.')
    return value
