"""What the user said of the encoder, and how its options are read."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from retrieval_db.errors import UsageError

from .groups import Network, Preprocessing
from .screen import check_writable

DEFAULT = "itq128"
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Settings:
    """What the user said of the encoder; see the options of `retrieval-db index`."""

    spec: str | None = None
    network: Network = field(default_factory=Network)
    bits: int | None = None
    name: str | None = None
    device: str = "auto"
    precision: str | None = None


def wanted_name(settings: Settings) -> str:
    """The name that the encoder has, or is going to have: `itq` is `itq128`."""
    from retrieval_db.encoder.hashing.methods import parse_spec

    spec = settings.spec or DEFAULT
    if settings.name is not None or is_file(spec):
        return settings.name or spec
    try:
        method, bits = parse_spec(spec, settings.bits)
    except UsageError:
        # Not a method, so it must be the name of a stored encoder.
        return spec
    return f"{method.name}{bits}"


def is_file(spec: str | None) -> bool:
    """Whether `--encoder` names a file, or an encoder in one: `FILE.safetensors:NAME`."""
    return spec is not None and spec.partition(f"{SUFFIX}:")[0].removesuffix(SUFFIX) != spec


def in_file(spec: str) -> tuple[Path, str | None]:
    """FILE:NAME in its parts."""
    file, colon, own = spec.rpartition(f"{SUFFIX}:")
    return (Path(file + SUFFIX), own) if colon else (Path(spec), None)


def check_encoder_file(file: Path) -> None:
    """See before the work that an encoder can be written there, and read under that name.

    Raises:
        UsageError: it cannot.
    """
    check_writable(file)
    if file.suffix != SUFFIX:
        raise UsageError(f"The file of an encoder ends in {SUFFIX}: -o {file}{SUFFIX}")


def numbers(option: str, text: str | None) -> float | tuple[float, ...] | None:
    """One number or several with commas between.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        values = tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"{option} is one number, or three with commas; not {text!r}.") from error
    return values[0] if len(values) == 1 else values


def preprocessing(given: Preprocessing) -> dict[str, Any]:
    """What was asked of the preprocessing, by the names of `Preprocess`; None where nothing was.

    Raises:
        UsageError: mean or std is no number.
    """
    return {
        "input_size": given.input_size,
        "mean": numbers("--mean", given.mean),
        "std": numbers("--std", given.std),
        "flip": given.flip or None,
        "decoder": given.decoder,
    }


def option(name: str) -> str:
    """What the command line calls it."""
    return f"--{name.replace('_', '-')}"
