"""Encoder files: safetensors with the encoder's name and config in the header; never pickle.

A file of several encoders, which share a backbone, holds what they share once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import FormatError, MissingExtra

HEADER_KEY = "retrieval_db_encoder"
TRAINING_KEY = "training_sha256"
FORMAT = 1
SEVERAL = 2  # the format of a file of several encoders
OWN = "encoder"  # what an encoder's own tensors begin with there
MAX_HEADER = 100_000_000  # the limit of the safetensors format itself

Tensors = Mapping[str, NDArray[Any]]
# name, config, tensors
Content = tuple[str, dict[str, Any], dict[str, NDArray[Any]]]


def canonical_json(value: Any) -> str:
    """The one JSON text of a value: sorted keys, no spaces, no NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def fingerprint(config: Mapping[str, Any], tensors: Tensors) -> str:
    """SHA-256 (hex) over the canonical JSON of `config` and every tensor with its name."""
    digest = hashlib.sha256(canonical_json(config).encode())
    for key in sorted(tensors):
        tensor = np.ascontiguousarray(tensors[key])
        # The line ends the text part: no two lists of tensors give the same stream.
        digest.update(f"\n{key} {tensor.dtype.str} {tensor.shape}\n".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def pack(name: str, config: Mapping[str, Any], tensors: Tensors) -> bytes:
    """Write an encoder as the bytes of a safetensors file.

    Raises:
        MissingExtra: safetensors is not installed.
    """
    return _written({"format": FORMAT, "name": name, "config": config}, tensors)


def pack_all(encoders: Sequence[tuple[str, Mapping[str, Any], Tensors]]) -> bytes:
    """Write several encoders, each a name, config and tensors, as one safetensors file.

    Raises:
        MissingExtra: safetensors is not installed.
    """
    if len(encoders) == 1:
        return pack(*encoders[0])
    _, _, first = encoders[0]
    shared = {
        key
        for key in first
        if all(
            key in tensors and np.array_equal(tensors[key], first[key])
            for _, _, tensors in encoders[1:]
        )
    }
    arrays = {key: first[key] for key in shared}
    for number, (_, _, tensors) in enumerate(encoders):
        own = {key: value for key, value in tensors.items() if key not in shared}
        arrays |= {f"{OWN}.{number}.{key}": value for key, value in own.items()}
    heads = [{"name": name, "config": config} for name, config, _ in encoders]
    return _written({"format": SEVERAL, "encoders": heads}, arrays)


def unpack(data: bytes) -> Content:
    """Read a file of one encoder.

    Returns:
        name, config, tensors.

    Raises:
        FormatError: not such a file, or damaged, or of several encoders.
        MissingExtra: safetensors is not installed.
    """
    found = unpack_all(data)
    if len(found) > 1:
        names = ", ".join(name for name, _, _ in found)
        raise FormatError(f"This file holds several encoders: {names}.")
    return found[0]


def unpack_all(data: bytes) -> list[Content]:
    """Read a file of one encoder or several; errors as `unpack`."""
    try:
        tensors = {
            key: value.astype(np.float32) if value.dtype == np.float16 else value
            for key, value in _safetensors().load(data).items()
        }
        length = int.from_bytes(data[:8], "little")
        metadata = json.loads(data[8 : 8 + min(length, MAX_HEADER)]).get("__metadata__") or {}
    except MissingExtra:
        raise
    except Exception as error:  # safetensors raises several types on damaged files
        raise FormatError(f"This is not a safetensors file, or it is damaged: {error}") from error
    if HEADER_KEY not in metadata:
        raise FormatError(
            "This safetensors file holds no encoder (backbone weights go to `--weights FILE`)."
        )
    try:
        header = json.loads(metadata[HEADER_KEY])
        version = header["format"]
        if version not in (FORMAT, SEVERAL):
            raise FormatError(
                f"This encoder file has format {version}, this program reads formats up to "
                f"{SEVERAL}: upgrade retrieval-db."
            )
        entries = header["encoders"] if version == SEVERAL else [header]
        named = [(entry["name"], entry["config"]) for entry in entries]
    except FormatError:
        raise
    # Brackets within brackets go deeper than Python does.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise FormatError("The header of this encoder file is damaged.") from error
    if not named or not all(
        isinstance(name, str) and isinstance(config, dict) for name, config in named
    ):
        raise FormatError("The header of this encoder file is damaged.")
    if version == FORMAT:
        return [(*named[0], tensors)]
    shared = {key: value for key, value in tensors.items() if not key.startswith(f"{OWN}.")}
    found = []
    for number, (name, config) in enumerate(named):
        prefix = f"{OWN}.{number}."
        own = {
            key.removeprefix(prefix): value
            for key, value in tensors.items()
            if key.startswith(prefix)
        }
        found.append((name, config, shared | own))
    return found


def is_encoder(path: Path) -> bool:
    """Whether a file says that it holds encoders; other safetensors hold weights alone."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(length, MAX_HEADER)))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(header, dict) and HEADER_KEY in (header.get("__metadata__") or {})


def training_sha256(tensors: Tensors) -> NDArray[np.uint8] | None:
    """The SHA-256 of each image that an encoder learnt from, or the first bytes of each.

    Returns:
        uint8 [N, W], W ≤ 32; None where it is not known.

    Raises:
        ValueError: something else is kept there.
    """
    found = tensors.get(TRAINING_KEY)
    if found is not None and (
        found.dtype != np.uint8 or found.ndim != 2 or not 1 <= found.shape[1] <= 32
    ):
        raise ValueError(f"{TRAINING_KEY} is {found.dtype} {found.shape}, not uint8 [N, 32]")
    return found


def _written(header: Mapping[str, Any], tensors: Tensors) -> bytes:
    """In half precision where that holds every float tensor exactly; read back as float32."""
    arrays = {key: np.ascontiguousarray(tensors[key]) for key in sorted(tensors)}
    single = [key for key, value in arrays.items() if value.dtype == np.float32]
    with np.errstate(over="ignore"):
        halves = {key: arrays[key].astype(np.float16) for key in single}
    if all(np.array_equal(halves[key], arrays[key]) for key in single):
        arrays |= halves
    return bytes(_safetensors().save(arrays, {HEADER_KEY: canonical_json(header)}))


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ModuleNotFoundError as error:
        raise missing_extra(error) from error
    return safetensors.numpy


def missing_extra(error: ModuleNotFoundError) -> MissingExtra:
    """The one-line cure for a part of the extra `encoder` that is not installed."""
    return MissingExtra(
        f"Encoders with a network need {error.name}: pip install 'retrieval-db[encoder]'. "
        "Without it, `--encoder phash64` works."
    )
