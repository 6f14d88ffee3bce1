"""Encoders from where a command finds them: the database, a file or a method."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from retrieval_db import encoders
from retrieval_db.client import Database
from retrieval_db.encoders import Encoder, StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.interchange import replacing

from .settings import DEFAULT, Settings, in_file, is_file, preprocessing

if TYPE_CHECKING:
    from retrieval_db.encoder import PerceptualHash
    from retrieval_db.encoder.network import NetworkEncoder


def make(settings: Settings) -> PerceptualHash | NetworkEncoder:
    """An encoder from its file, or of a method; it may need fitting."""
    if is_file(settings.spec):
        network = settings.network
        own = (network.backbone, *preprocessing(network).values(), settings.precision)
        if any(option is not None for option in own):
            raise UsageError(
                f"{settings.spec} brings its own network and preprocessing: leave out backbone, "
                "input size, mean, std, flip, decoder and precision."
            )
        return from_file(
            settings.spec or "",
            settings.name,
            bits=settings.bits,
            weights=settings.network.weights,
            device=settings.device,
        )
    return unfitted(settings)


def unfitted(settings: Settings) -> PerceptualHash | NetworkEncoder:
    """An encoder of a method, which may have to be fitted before it can encode."""
    from retrieval_db.encoder import create

    return create(
        settings.spec or DEFAULT,
        name=settings.name,
        backbone=settings.network.backbone,
        weights=settings.network.weights,
        **preprocessing(settings.network),
        bits=settings.bits,
        device=settings.device,
        precision=settings.precision or "float32",
    )


def from_file(
    spec: str,
    name: str | None = None,
    *,
    bits: int | None = None,
    weights: Path | None = None,
    device: str = "auto",
) -> PerceptualHash | NetworkEncoder:
    """The encoder of a file, under its own or another name.

    Args:
        spec: FILE, or FILE:NAME where it holds several.
        name: the other name.
        bits: the code length, which may choose one of several.
    """
    from retrieval_db.encoder import open_file

    file, own = in_file(spec)
    found = open_file(file, name=own, bits=bits, weights=weights, device=device)
    return found if name is None else replace(found, name=name)


def all_from_file(spec: str, *, weights: Path | None = None, device: str = "auto") -> list[Encoder]:
    """Every encoder of a file; or the one that FILE:NAME names."""
    from retrieval_db.encoder import open_all

    file, own = in_file(spec)
    if own is not None:
        return [from_file(spec, weights=weights, device=device)]
    return list(open_all(file, weights=weights, device=device))


def from_database(
    db: Database, stored: StoredEncoder, weights: Path | None, device: str
) -> Encoder:
    """A stored encoder, ready to encode.

    Raises:
        EncoderUnavailable: its weights are not here, or only its codes were loaded.
    """
    from retrieval_db.encoder import from_stored

    return from_stored(
        stored.name,
        stored.config,
        encoders.artifact(db.connection, stored),
        weights=weights,
        device=device,
    )


def export(db: Database, name: str, out: Path) -> None:
    """Write a stored encoder to a file; its backbone need not be here.

    Raises:
        EncoderUnavailable: only its codes were loaded.
    """
    from retrieval_db.encoder import save

    stored = db.encoder(name)
    weights = encoders.artifact(db.connection, stored)
    if weights is None:
        save(from_database(db, stored, None, "cpu"), out)
        return
    with replacing(out) as temporary:
        temporary.write_bytes(weights)
