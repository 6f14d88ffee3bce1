"""Encoder files: safetensors with the encoder's name and config in the header; never pickle."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import FormatError, MissingExtra

HEADER_KEY = "retrieval_db_encoder"
FORMAT = 1
MAX_HEADER = 100_000_000  # the limit of the safetensors format itself

Tensors = Mapping[str, NDArray[Any]]


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
    header = canonical_json({"format": FORMAT, "name": name, "config": config})
    arrays = {key: np.ascontiguousarray(tensors[key]) for key in sorted(tensors)}
    return bytes(_safetensors().save(arrays, {HEADER_KEY: header}))


def unpack(data: bytes) -> tuple[str, dict[str, Any], dict[str, NDArray[Any]]]:
    """Read what `pack` wrote.

    Returns:
        name, config, tensors.

    Raises:
        FormatError: not such a file, or damaged.
        MissingExtra: safetensors is not installed.
    """
    try:
        tensors = _safetensors().load(data)
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
        version, name, config = header["format"], header["name"], header["config"]
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError("The header of this encoder file is damaged.") from error
    if version != FORMAT:
        raise FormatError(
            f"This encoder file has format {version}, this program reads format {FORMAT}: "
            "upgrade retrieval-db."
        )
    if not isinstance(name, str) or not isinstance(config, dict):
        raise FormatError("The header of this encoder file is damaged.")
    return name, config, dict(tensors)


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
