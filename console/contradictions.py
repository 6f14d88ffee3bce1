"""Options that a stored encoder contradicts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import UsageError

from .groups import Network
from .settings import Settings, option, preprocessing


def check(stored: StoredEncoder, settings: Settings) -> None:
    """Refuse options that a stored encoder contradicts.

    Raises:
        UsageError: it is of another method or length, or has another network, preprocessing or
            precision than were asked for.
    """
    config, network = stored.config, settings.network
    if network.weights is not None and not _part(config, "backbone"):
        raise UsageError(f"The stored encoder {stored.name!r} has no network: leave --weights out.")
    method, bits = _spec_beside(stored, settings)
    asked_of_it = [
        ("method", method, config.get("method")),
        ("--bits", bits, stored.bits),
        ("--backbone", network.backbone, _part(config, "backbone").get("name")),
        ("--precision", settings.precision, config.get("precision")),
        *_preprocess_beside(stored, network),
    ]
    for what, asked, has in asked_of_it:
        if asked is not None and asked != has:
            there = f"has {what} {has}, not {asked}" if has is not None else f"has no {what}"
            raise UsageError(
                f"The stored encoder {stored.name!r} {there}. Give the new one another --name."
            )


def _spec_beside(stored: StoredEncoder, settings: Settings) -> tuple[str | None, int | None]:
    """Method and length that were asked for, where they were."""
    from retrieval_db.encoder.hashing.methods import parse_spec

    spec = settings.spec
    if spec is None or spec == stored.name:
        return None, settings.bits
    method, bits = parse_spec(spec, settings.bits)
    return method.name, bits if spec[-1].isdigit() else settings.bits


def _preprocess_beside(
    stored: StoredEncoder, network: Network
) -> Iterator[tuple[str, object, object]]:
    """Each option of the preprocessing that was given, as asked for and as it is."""
    from retrieval_db.encoder import Preprocess

    given = {name: one for name, one in preprocessing(network).items() if one is not None}
    config = _part(stored.config, "preprocess")
    own = Preprocess.from_config(config) if config and given else None
    asked = own.changed(**given) if own else None
    for name, value in given.items():
        yield option(name), getattr(asked, name, value), getattr(own, name, None)


def _part(config: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    """A part of a config, which whoever loaded the codes wrote; empty if it is not as ours are."""
    part = config.get(name)
    return part if isinstance(part, dict) else {}
