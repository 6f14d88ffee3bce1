"""What the database side knows of an encoder: the protocol, and the stored records."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from psycopg.types.json import Jsonb

from .codes import check_bits
from .database import Connection, translated
from .errors import EncoderConflict, UnknownEncoder, UsageError, WrongWidth
from .sql import queries

SQL = queries("encoders")


@runtime_checkable
class Encoder(Protocol):
    """Turns images into outputs whose signs are the bits of a hash code.

    `prepare` is per image and runs where the image is decoded; `encode` is per batch and
    runs where the network is. Both are deterministic.
    """

    @property
    def name(self) -> str:
        """The name under which codes of this encoder are stored."""

    @property
    def bits(self) -> int:
        """L, the code length: a multiple of 4 from 4 to 256."""

    @property
    def feature_dim(self) -> int | None:
        """D, the length of a feature; None if this encoder has none."""

    @property
    def config(self) -> Mapping[str, Any]:
        """Everything but the weights that the codes depend on; JSON."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) over config and weights: equal fingerprints, equal codes."""

    @property
    def artifact(self) -> bytes | None:
        """Safetensors with every weight that is not a published backbone; None if there is none."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """Turn one RGB image into the array that `encode` stacks; the same shape for each."""

    def encode(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32] | None, NDArray[np.float32]]:
        """Encode a stack of prepared images.

        Args:
            batch: [N, ...], the results of `prepare`, stacked.

        Returns:
            features: [N, D] float32, or None if `feature_dim` is None;
            outputs: [N, L] float32; bit i of a code is 1 iff output i > 0.
        """


@runtime_checkable
class PortableEncoder(Protocol):
    """An encoder whose preprocessing can run in other processes."""

    @property
    def preparer(self) -> Callable[[Image.Image], NDArray[Any]]:
        """What `Encoder.prepare` does, as an object that can be pickled, and lightly imported."""


# Whole files → what `Encoder.prepare` makes of their images; None for one to be decoded as usual.
Decode = Callable[[Sequence[bytes]], Sequence[NDArray[Any] | None]]


@runtime_checkable
class DecodingEncoder(Protocol):
    """An encoder that may decode files by itself, many at once."""

    @property
    def decoder(self) -> Decode | None:
        """Called from several threads; None if all files are decoded as usual."""


def decoder_of(encoder: object) -> Decode | None:
    """What decodes files for an encoder; None where Pillow does."""
    return encoder.decoder if isinstance(encoder, DecodingEncoder) else None


@runtime_checkable
class StreamEncoder(Protocol):
    """An encoder that is faster when it knows the next batch before it hands out one."""

    @property
    def stream_workers(self) -> int:
        """How many images it encodes side by side."""

    def encode_stream(
        self, batches: Iterable[NDArray[Any]], busy: Callable[[float, int], None]
    ) -> Iterator[tuple[NDArray[np.floating] | None, NDArray[np.uint8]]]:
        """Encode batches of prepared images, in order.

        Args:
            batches: as `Encoder.encode` takes them.
            busy: told how long it worked, in seconds, and on how many images.

        Yields:
            features [N, D] or None, and packed codes uint8 [N, ceil(L/8)], the same bits as
            those of `Encoder.encode`, for each batch.
        """


@runtime_checkable
class StreamExtractor(Protocol):
    """A `FeatureExtractor` that is faster when it knows the next batch."""

    def feature_stream(
        self, batches: Iterable[NDArray[Any]], busy: Callable[[float, int], None]
    ) -> Iterator[NDArray[np.float32]]:
        """As `StreamEncoder.encode_stream`, the features only."""


class FeatureExtractor(Protocol):
    """A backbone: what a head is fitted on comes from it."""

    def prepare(self, image: Image.Image) -> NDArray[Any]:
        """As `Encoder.prepare`."""

    def features(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """The features, float32 [N, D], of a stack of prepared images [N, ...]."""


@dataclass(frozen=True)
class StoredEncoder:
    """A row of `encoders`.

    Attributes:
        id: its key in the database.
        name: unique in the database.
        bits: L.
        feature_dim: D, or None.
        config: everything but the weights; empty if only codes were loaded.
        fingerprint: SHA-256 (hex) over config and weights.
        root: the folder that relative paths of its images start from, or None.
        has_artifact: whether its weights are stored.
        created_at: when it was stored.
    """

    id: int
    name: str
    bits: int
    feature_dim: int | None
    config: Mapping[str, Any]
    fingerprint: str
    root: str | None
    has_artifact: bool
    created_at: datetime

    def check_same(self, bits: int, fingerprint: str | None) -> None:
        """Refuse codes of another encoder; a fingerprint that is not known can be any.

        Raises:
            WrongWidth: they have another number of bits.
            EncoderConflict: they have another fingerprint.
        """
        if self.bits != bits:
            raise WrongWidth(
                f"The encoder {self.name!r} makes codes of {self.bits} bits, not {bits}."
            )
        if fingerprint and self.fingerprint and self.fingerprint != fingerprint:
            raise EncoderConflict(
                f"The encoder {self.name!r} is stored with another fingerprint "
                f"({self.fingerprint[:12]}…, not {fingerprint[:12]}…): its codes cannot be "
                "compared with these. Give this one another name (--encoder or --name)."
            )


def find(connection: Connection, name: str) -> StoredEncoder:
    """The encoder of that name.

    Raises:
        UnknownEncoder: there is none; the message lists those there are.
    """
    row = connection.execute(SQL["find"], [name]).fetchone()
    if row is None:
        names = ", ".join(stored.name for stored in stored_encoders(connection))
        raise UnknownEncoder(
            f"There is no encoder {name!r} in this database; there "
            + (f"are: {names}." if names else "is none yet. `retrieval-db index` makes one.")
        )
    return StoredEncoder(*row)


def only(connection: Connection) -> StoredEncoder:
    """The one encoder of a database that has one.

    Raises:
        UnknownEncoder: there is none, or a choice.
    """
    stored = stored_encoders(connection)
    if len(stored) == 1:
        return stored[0]
    if not stored:
        raise UnknownEncoder(
            "The database holds no codes yet. `retrieval-db index PHOTOS/` fills it."
        )
    names = ", ".join(encoder.name for encoder in stored)
    raise UnknownEncoder(f"Several encoders are stored; name one of: {names}.")


def stored_encoders(connection: Connection) -> list[StoredEncoder]:
    """All encoders, by name."""
    return [StoredEncoder(*row) for row in connection.execute(SQL["all"]).fetchall()]


def image_counts(connection: Connection) -> dict[str, int]:
    """How many images each encoder has codes of."""
    return {str(name): int(count) for name, count in connection.execute(SQL["counts"])}


def register(
    connection: Connection,
    name: str,
    bits: int,
    *,
    fingerprint: str | None,
    feature_dim: int | None = None,
    config: Mapping[str, Any] | None = None,
    artifact: bytes | None = None,
    root: str | None = None,
) -> StoredEncoder:
    """Store an encoder, or find that the very same one is stored, and complete it.

    Without a fingerprint the name alone says that two encoders are the same.

    Raises:
        EncoderConflict: another encoder has this name.
        WrongWidth: the encoder of this name has codes of another width.
    """
    values = {
        "name": name,
        "bits": check_bits(bits),
        "feature_dim": feature_dim,
        "config": Jsonb(dict(config or {})),
        "fingerprint": fingerprint or "",
        "artifact": artifact,
        "root": root,
    }
    connection.execute(SQL["register"], values)
    connection.execute(SQL["complete"], values)
    stored = find(connection, name)
    stored.check_same(bits, fingerprint)
    return stored


def artifact(connection: Connection, encoder: StoredEncoder) -> bytes | None:
    """The stored weights of an encoder, as safetensors; None if only its codes were loaded."""
    row = connection.execute(SQL["artifact"], [encoder.id]).fetchone()
    return None if row is None or row[0] is None else bytes(row[0])


def remove(connection: Connection, name: str) -> int:
    """Delete an encoder with all its images' codes, at once or not at all.

    Returns:
        How many images went with it.
    """
    with connection.transaction():
        encoder = find(connection, name)
        removed = connection.execute(SQL["remove_images"], [encoder.id]).rowcount
        connection.execute(SQL["remove"], [encoder.id])
    return removed


def rooted(
    connection: Connection, encoder: StoredEncoder, root: str, *, moved: bool = False
) -> StoredEncoder:
    """The encoder with its paths stored relative to `root`.

    An encoder without images takes the root over; with `moved` also one whose own root is
    no longer there: the photos have been moved.

    Raises:
        UsageError: its paths start from another folder.
    """
    if encoder.root == root:
        return encoder
    gone = moved and encoder.root is not None and not os.path.exists(encoder.root)
    if not gone:
        row = connection.execute(SQL["any_image"], [encoder.id]).fetchone()
        if row is not None and row[0]:
            raise UsageError(
                f"The paths of the encoder {encoder.name!r} are stored "
                + (f"relative to {encoder.root}" if encoder.root else "absolute")
                + f", not relative to {root}. Leave --root out, or store under another name."
            )
    connection.execute(SQL["set_root"], [root, encoder.id])
    return replace(encoder, root=root)


def takes_features(connection: Connection) -> bool:
    """Whether the database has the table of features."""
    with translated(connection):
        row = connection.execute(SQL["has_features_table"]).fetchone()
    return row is not None and bool(row[0])
