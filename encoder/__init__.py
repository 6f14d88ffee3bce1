"""Encoders: from images to the outputs whose signs are the bits of a hash code.

    from retrieval_db.encoder import create

    encoder = create("itq128", weights=Path("mobilenet_v2.safetensors"))
    if not encoder.fitted:
        encoder = encoder.fit(encoder.features(batch))
    features, outputs = encoder.encode(batch)

Importing it loads no torch, and neither do the perceptual hashes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from PIL import Image

from retrieval_db.encoders import Encoder
from retrieval_db.errors import EncoderUnavailable, FormatError, UsageError

from . import checkpoint, phash
from .files import write_result
from .hashing.methods import METHODS, parse_spec
from .names import BACKBONES, DEFAULT_BACKBONE, DEFAULT_METHOD, SHIPPED
from .networks.preprocess import Preprocess
from .phash import PerceptualHash

if TYPE_CHECKING:
    from .network import NetworkEncoder

__all__ = [
    "BACKBONES",
    "DEFAULT_BACKBONE",
    "DEFAULT_METHOD",
    "METHODS",
    "SHIPPED",
    "PerceptualHash",
    "Preprocess",
    "create",
    "from_stored",
    "open_all",
    "open_file",
    "require_network",
    "save",
    "save_all",
    "train_small",
]


def create(
    spec: str = DEFAULT_METHOD,
    *,
    name: str | None = None,
    backbone: str | None = None,
    weights: Path | str | None = None,
    input_size: int | None = None,
    mean: float | Sequence[float] | None = None,
    std: float | Sequence[float] | None = None,
    flip: bool | None = None,
    decoder: str | None = None,
    bits: int | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    cache_dir: Path | None = None,
) -> PerceptualHash | NetworkEncoder:
    """Make a new encoder. Where `fitted` is False it needs `fit` before it can encode.

    Args:
        spec: a method with or without its code length: `itq128`, `lsh64`, `phash256`; or an
            encoder that comes with the program, one of `SHIPPED`.
        name: under which its codes are stored; method and L by default.
        backbone: one of `BACKBONES`; `DEFAULT_BACKBONE` by default.
        weights: a local file instead of torchvision's published weights; remembered by its
            SHA-256. `FILE.json` beside it may hold input_size, mean, std, interpolation, crop,
            flip, decoder.
        input_size, mean, std: of the preprocessing; they overrule that file.
        flip: take the mean of the features of an image and its mirror image.
        decoder: pillow; or torchcodec or nvjpeg, which are quicker and give other codes (see
            `Preprocess`).
        bits: L, where the spec does not say.
        seed: of the fit.
        device: auto, cuda, mps or cpu.
        precision: float32 or bfloat16.
        cache_dir: instead of $RETRIEVAL_DB_HOME or the user's cache folder.

    Raises:
        UsageError: unknown method, backbone, device or precision; an impossible L; no file.
        EncoderUnavailable: the published weights are not here and cannot be downloaded.
        FormatError: a file that does not hold weights of the backbone.
        MissingExtra: torch is not installed.
    """
    of_networks = (backbone, weights, input_size, mean, std, flip or None, decoder)
    given = any(option is not None for option in of_networks) or precision != "float32"
    if spec in SHIPPED:
        if given:
            raise UsageError(
                f"{spec} brings its own network: leave out backbone, weights, input size, mean, "
                "std, flip, decoder and precision."
            )
        return _shipped(spec, name, bits, device)
    method, length = parse_spec(spec, bits)
    name = name or f"{method.name}{length}"
    if method.name == "phash":
        if given:
            raise UsageError(
                f"{name} has no network: leave out backbone, weights, input size, mean, std, "
                "flip, decoder and precision."
            )
        return PerceptualHash(length, name)
    if method.fit is None:
        raise UsageError(
            f"{method.name} learns from labels: `retrieval-db train --method {method.name}` makes "
            "an encoder file, which --encoder takes."
        )
    network = _network()
    loaded, preprocess = network.backbones.load(
        backbone or DEFAULT_BACKBONE, None if weights is None else Path(weights), cache_dir
    )
    encoder: NetworkEncoder = network.NetworkEncoder(
        name=name,
        method=method.name,
        bits=length,
        backbone=loaded,
        preprocess=preprocess.changed(
            input_size=input_size, mean=mean, std=std, flip=flip, decoder=decoder
        ),
        precision=precision,
        seed=seed,
        device=device,
    )
    return encoder


def _shipped(
    spec: str, name: str | None, bits: int | None, device: str
) -> PerceptualHash | NetworkEncoder:
    found = open_file(SHIPPED[spec], name=spec, device=device)
    if bits not in (None, found.bits):
        raise UsageError(f"{spec} has {found.bits} bits, not {bits}.")
    return found if name is None else replace(found, name=name)


def from_stored(
    name: str,
    config: Mapping[str, Any],
    artifact: bytes | None,
    *,
    weights: Path | str | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> PerceptualHash | NetworkEncoder:
    """Make an encoder again from what a database stores of it.

    Args:
        name, config, artifact: as the encoder had them.
        weights: the backbone's weights file, where it is not in the cache; its SHA-256 must be
            the one in the config.

    Raises:
        EncoderUnavailable: it has no artifact, or its backbone's weights are not to be had.
        FormatError: config or artifact are damaged, or do not belong together.
        MissingExtra: torch is not installed.
    """
    kind = config.get("kind")
    if kind == "phash":
        return phash.from_config(name, config)
    if artifact is None:
        raise EncoderUnavailable(
            f"Encoder {name!r} was stored without its weights, so it cannot encode images here. "
            "Search by id or by code, or store it with `encoders add FILE`."
        )
    if kind != "network":
        raise EncoderUnavailable(
            f"Encoder {name!r} is of a kind {kind!r} that this program does not know: "
            "upgrade retrieval-db."
        )
    _, inner, tensors = checkpoint.unpack(artifact)
    if inner != dict(config):
        raise FormatError(f"Encoder {name!r}: its artifact belongs to another config.")
    path = None if weights is None else Path(weights)
    encoder: NetworkEncoder = _network().restore(
        name, config, tensors, weights=path, device=device, cache_dir=cache_dir
    )
    return encoder


def open_file(
    path: Path | str,
    *,
    name: str | None = None,
    bits: int | None = None,
    weights: Path | str | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> PerceptualHash | NetworkEncoder:
    """Read an encoder from a file that `save` or `save_all` wrote.

    Args:
        name, bits: which one, where the file holds several.
        weights, device, cache_dir: as `from_stored`.

    Raises:
        FormatError: not an encoder file.
        UsageError: it cannot be read, or `name` and `bits` do not choose one of its encoders.
        EncoderUnavailable: as `from_stored`.
    """
    contents = _contents(Path(path))
    chosen = [
        content
        for content in contents
        if (name is None or content[0] == name) and (bits is None or content[1].get("bits") == bits)
    ]
    if len(chosen) != 1 and (len(contents) > 1 or not chosen):
        names = ", ".join(content[0] for content in contents)
        raise UsageError(
            f"{path} holds the encoders {names}: name one, as {path}:{contents[0][0]}, or say "
            f"--bits."
            if len(contents) > 1
            else f"{path} holds the encoder {names} of {contents[0][1].get('bits')} bits only."
        )
    return _opened(Path(path), chosen[0], weights, device, cache_dir)


def open_all(
    path: Path | str,
    *,
    weights: Path | str | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> list[PerceptualHash | NetworkEncoder]:
    """Read all encoders of a file. Arguments and errors as `open_file`."""
    return [
        _opened(Path(path), content, weights, device, cache_dir)
        for content in _contents(Path(path))
    ]


def _contents(path: Path) -> list[checkpoint.Content]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UsageError(f"The encoder file {path} cannot be read: {error.strerror}.") from error
    try:
        return checkpoint.unpack_all(data)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _opened(
    path: Path,
    content: checkpoint.Content,
    weights: Path | str | None,
    device: str,
    cache_dir: Path | None,
) -> PerceptualHash | NetworkEncoder:
    name, config, tensors = content
    try:
        artifact = checkpoint.pack(name, config, tensors)
        return from_stored(
            name, config, artifact, weights=weights, device=device, cache_dir=cache_dir
        )
    # Python reads what is nested a little deeper than it writes.
    except (FormatError, RecursionError) as error:
        raise FormatError(f"{path}: {error}") from error


def save(encoder: Encoder, path: Path | str) -> None:
    """Write an encoder to a .safetensors file, whole or not at all.

    Raises:
        EncoderUnavailable: it is not fitted.
        FormatError: the file cannot be written.
    """
    save_all([encoder], path)


def save_all(encoders: Sequence[Encoder], path: Path | str) -> None:
    """Write several encoders to one file; what they share is in it once. Errors as `save`."""
    contents = []
    for encoder in encoders:
        data = encoder.artifact
        if data is None:
            if not isinstance(encoder, PerceptualHash):
                raise EncoderUnavailable(
                    f"Encoder {encoder.name!r} has no weights to save: fit it."
                )
            data = checkpoint.pack(encoder.name, encoder.config, {})
        contents.append(checkpoint.unpack(data))
    write_result(Path(path), checkpoint.pack_all(contents))


def train_small(
    images: Sequence[Image.Image],
    labels: Sequence[str | int],
    bits: int = 48,
    *,
    name: str | None = None,
    seed: int = 0,
    epochs: int = 10,
    device: str = "auto",
) -> NetworkEncoder:
    """Train a small network on small labelled images; see `encoder.training.small`."""
    require_network()
    from .training import small

    return small.train_small(
        images, labels, bits, name=name, seed=seed, epochs=epochs, device=device
    )


def require_network() -> None:
    """See whether encoders with a network can be used here.

    Raises:
        MissingExtra: torch is not installed.
    """
    _network()


def _network() -> ModuleType:
    try:
        from . import network
    except ModuleNotFoundError as error:
        if error.name not in ("torch", "torchvision", "safetensors"):
            raise
        raise checkpoint.missing_extra(error) from error
    return network
