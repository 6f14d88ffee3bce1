"""Which encoder a command uses: a stored one, a file's, or a new one fitted on the photos."""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from retrieval_db import encoders, photos
from retrieval_db.client import Database, connect
from retrieval_db.database import ENVIRONMENT
from retrieval_db.encoders import Encoder, StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.interchange import replacing
from retrieval_db.photos import Item, Shard, Sources
from retrieval_db.pipeline import encoding
from retrieval_db.search import flat

from .groups import Network
from .screen import progress_bar

if TYPE_CHECKING:
    from retrieval_db.encoder import PerceptualHash
    from retrieval_db.encoder.network import NetworkEncoder

# A head is fitted on at most this many photos, drawn with a fixed seed.
FIT_ON = 20_000
DEFAULT = "itq128"
SUFFIX = ".safetensors"

Say = Callable[[str], None]


@dataclass(frozen=True)
class Settings:
    """What the user said of the encoder; see the options of `retrieval-db index`."""

    spec: str | None = None
    network: Network = field(default_factory=Network)
    bits: int | None = None
    name: str | None = None
    device: str = "auto"
    precision: str | None = None


def for_indexing(
    db: Database, images: Sources, settings: Settings, *, say: Say, shard: Shard | None = None
) -> Encoder:
    """The encoder of that stored name or file, or a new one of that method.

    A head that needs fitting is fitted once, on these photos, and then frozen: a stored
    encoder of the same name is used again. Of several machines that share a job the first
    one fits, and the others wait for it.
    """
    from retrieval_db.encoder.names import SHIPPED

    stored = {encoder.name: encoder for encoder in db.encoders()}
    name = wanted_name(settings)
    # A ready-made encoder under another encoder's name is refused when it is registered.
    other = settings.spec in SHIPPED and settings.spec != name
    if name not in stored or is_file(settings.spec) or other:
        made = make(settings)
        if made.fitted:
            return made
        if shard is None or shard.number == 1:
            return fit(made, images, say=say)
        say(f"Waiting for part 1/{shard.of} to fit and store {name!r}.")
        while name not in stored:
            time.sleep(1)
            stored = {encoder.name: encoder for encoder in db.encoders()}
    check_asked(stored[name], settings)
    say(f"Using the stored encoder {name!r}, as it was first fitted.")
    return from_database(db, stored[name], settings.network.weights, settings.device)


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


def check_asked(stored: StoredEncoder, settings: Settings) -> None:
    """Refuse options that a stored encoder contradicts.

    Raises:
        UsageError: it is of another method or length, or has another network, preprocessing or
            precision than were asked for.
    """
    config, network = stored.config, settings.network
    method, bits = _spec_beside(stored, settings)
    backbone = config.get("backbone")
    asked_of_it = [
        ("the method", method, config.get("method")),
        ("--bits", bits, stored.bits),
        ("--backbone", network.backbone, backbone["name"] if backbone else None),
        ("--precision", precision(settings), config.get("precision")),
        *_preprocess_beside(stored, network),
    ]
    for option, asked, has in asked_of_it:
        if asked is not None and asked != has:
            there = f"has {option} {has}, not {asked}" if has is not None else f"has no {option}"
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

    config = stored.config.get("preprocess")
    own = Preprocess.from_config(config) if config else None
    size, flip = network.input_size, network.flip or None
    mean, std = numbers("--mean", network.mean), numbers("--std", network.std)
    asked = own.changed(size, mean, std, flip) if own else None
    given = {"input_size": size, "mean": mean, "std": std, "flip": flip}
    for name, value in given.items():
        if value is not None:
            option = f"--{name.replace('_', '-')}"
            yield option, getattr(asked, name, value), getattr(own, name, None)


def precision(settings: Settings) -> str | None:
    """What encoders call the precision that was asked for."""
    return "bfloat16" if settings.precision == "bf16" else settings.precision


def for_encoding(database: str | None, images: Sources, settings: Settings, *, say: Say) -> Encoder:
    """As `for_indexing`, but a database is asked only if the user named one."""
    if names_database(database):
        with connect(database, report=say) as db:
            return for_indexing(db, images, settings, say=say)
    made = make(settings)
    return made if made.fitted else fit(made, images, say=say)


def names_database(database: str | None) -> bool:
    """Whether the user named a database, by option or environment."""
    return bool(database) or any(os.environ.get(name) for name in ENVIRONMENT)


def for_query(
    db: Database, spec: str | None, weights: Path | None, device: str
) -> tuple[StoredEncoder, Encoder]:
    """The encoder to search photos with: a stored one, by name or as the only one."""
    stored = db.encoder(spec)
    return stored, from_database(db, stored, weights, device)


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


def make(settings: Settings) -> PerceptualHash | NetworkEncoder:
    """An encoder from its file, or of a method; it may need fitting."""
    if is_file(settings.spec):
        network = settings.network
        own = (
            network.backbone,
            network.input_size,
            network.mean,
            network.std,
            network.flip or None,
            settings.precision,
        )
        if any(option is not None for option in own):
            raise UsageError(
                f"{settings.spec} brings its own network and preprocessing: leave out backbone, "
                "input size, mean, std, flip and precision."
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
        input_size=settings.network.input_size,
        mean=numbers("--mean", settings.network.mean),
        std=numbers("--std", settings.network.std),
        flip=settings.network.flip,
        bits=settings.bits,
        device=settings.device,
        precision=precision(settings) or "float32",
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


def in_file(spec: str) -> tuple[Path, str | None]:
    """FILE:NAME in its parts."""
    file, colon, own = spec.rpartition(f"{SUFFIX}:")
    return (Path(file + SUFFIX), own) if colon else (Path(spec), None)


def fit(unfitted: Encoder, images: Sources, *, say: Say) -> Encoder:
    """Fit a head on up to `FIT_ON` of the photos, whose features it then remembers.

    Raises:
        NotEnoughImages: there are too few.
    """
    from retrieval_db.encoder.memory import Remembering

    total = images.count()
    sample: Iterable[Item] = images
    if total > FIT_ON:
        chosen = set(random.Random(0).sample(range(total), FIT_ON))
        sample = (item for number, item in enumerate(images) if number in chosen)
    with progress_bar(f"Fitting {unfitted.name}", min(total, FIT_ON)) as advance:
        memory = Remembering(cast("NetworkEncoder", unfitted))
        memory.fit(encoding.extract_features(sample, memory, progress=advance))
    if memory.encoder.advice:
        say(memory.encoder.advice)
    return memory


def refit(
    db: Database, name: str, new_name: str | None, *, weights: Path | None, device: str, say: Say
) -> tuple[Encoder, Sources]:
    """A new encoder of the same kind, fitted on all photos of a stored one.

    Returns:
        The encoder, and the photos that are still there, with their labels and metadata.

    Raises:
        UsageError: it has no head, or one that learns from labels; or the new name is taken.
    """
    from retrieval_db.encoder.hashing.methods import METHODS

    stored = db.encoder(name)
    old = from_database(db, stored, weights, device)
    if getattr(old, "head", None) is None:
        raise UsageError(f"The encoder {name!r} has nothing to fit.")
    unfitted = replace(cast("NetworkEncoder", old), head=None)
    if METHODS[unfitted.method].fit is None:
        raise UsageError(
            f"{unfitted.method} learns from labels: `retrieval-db train` makes a new encoder of "
            "this kind, and `index --encoder` takes it."
        )
    taken = {encoder.name for encoder in db.encoders()}
    chosen = new_name or next(n for i in range(2, 1000) if (n := f"{name}-{i}") not in taken)
    if chosen in taken:
        raise UsageError(f"There is an encoder {chosen!r} already; choose another --name.")
    images = Sources(items=[item for item in db.files(stored) if photos.exists(item.path)])
    return fit(replace(unfitted, name=chosen), images, say=say), images


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


def widths(text: str | None) -> list[int] | None:
    """Bits of chunks, with commas between.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return None
    try:
        return [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--widths is a list such as 22,22,21,21,21,21; not {text!r}.") from error


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
