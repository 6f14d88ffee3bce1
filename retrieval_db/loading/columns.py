"""Codes with what belongs to them as columns of COPY; what cannot be stored is refused here."""

from __future__ import annotations

import numpy as np

from .. import codes, jsonb, texts
from ..encoders import StoredEncoder
from ..errors import FormatError
from ..interchange import CodeSet
from .copy_format import Column, constant, fields, fixed, integers

# Characters of a text that a message shows.
SHOWN = 80


def image_columns(encoder: StoredEncoder, batch: CodeSet) -> list[Column]:
    """The columns of `images` that a batch brings, in the order of the COPY statements.

    Raises:
        FormatError: a path, label or metadata that PostgreSQL cannot store.
    """
    count = len(batch)
    words = codes.to_words(batch.codes, batch.bits)
    hashes = batch.content_sha256
    return [
        constant(encoder.id.to_bytes(4, "big"), count),
        constant(encoder.bits.to_bytes(2, "big"), count),
        *(integers(words[:, word], 8) for word in range(codes.WORDS)),
        fields([stored_text("path", path) for path in batch.paths]),
        fields(
            [stored_text("label", label) for label in batch.labels]
            if batch.labels is not None
            else [None] * count
        ),
        fields([None] * count)
        if hashes is None
        else fixed(np.ascontiguousarray(hashes), 32).where(batch.known_hashes),
        fields(
            [stored_json(value) for value in batch.metadata]
            if batch.metadata is not None
            else [None] * count
        ),
    ]


def stored_text(kind: str, value: str | None) -> bytes | None:
    """A text as it is stored; `kind` says what it is: path, label or metadata.

    Raises:
        FormatError: it cannot be stored; or a path is missing.
    """
    if not value:
        if kind == "path":
            raise FormatError("An image without a path: every code needs one.")
        return None
    try:
        return texts.encoded(value, None if kind == "metadata" else texts.LONGEST)
    except ValueError as error:
        shown = value if len(value) <= SHOWN else f"{value[:SHOWN]}…"
        raise FormatError(f"The {kind} {shown!r} {error}, and cannot be stored.") from error


def stored_json(value: str | None) -> bytes | None:
    """Metadata in the binary form of `jsonb`: its version, then the text.

    Raises:
        FormatError: they are not JSON, or cannot be stored.
    """
    if not value:
        return None
    try:
        jsonb.parse(value)
    except ValueError as error:
        raise FormatError(
            f"The metadata {value[:SHOWN]!r} cannot be stored as JSON: {error}."
        ) from error
    encoded = stored_text("metadata", value)
    assert encoded is not None
    return b"\1" + encoded
