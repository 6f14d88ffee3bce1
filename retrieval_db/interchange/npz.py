"""Codes from a `.npz`: one array for each column, read batch by batch."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .. import codes, errors
from . import npy
from .codeset import COLUMNS, CodeSet, check_count, described
from .files import named

REQUIRED = ("codes", "bits", "paths")
# Arrays that there is one of; those with a row for each code are the columns of a CodeSet.
HEAD = ("bits", "encoder", "encoder_fingerprint", "encoder_config", "encoder_artifact", "root")
# So many bytes one of them may have: the artifact holds a network, and is stored as a `bytea`.
MAX_HEAD = 1 << 24
MAX_ARTIFACT = 1 << 30

# Where the header of an encoder's safetensors holds its name and config.
ARTIFACT_KEY = "retrieval_db_encoder"


class NpzSource:
    """A `.npz` of codes, in which no array is held whole. Pickled objects are refused."""

    kind = "npz"
    remarks: tuple[str, ...] = ()

    def __init__(self, path: Path) -> None:
        self.path = path

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The rows in order, `size` at a time; of an empty file one empty batch.

        Raises:
            FormatError: not an npz, an array is missing, or one has the wrong type or shape.
            InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
        """
        with named(self.path, "is not an npz of plain arrays"), ExitStack() as members:
            if not zipfile.is_zipfile(self.path):
                self.path.open("rb").close()
                raise errors.FormatError("It is not an npz file.")
            archive = members.enter_context(zipfile.ZipFile(self.path))
            found = {name: npy.opened(archive, name, members) for name in (*HEAD, *COLUMNS)}
            arrays = {name: array for name, array in found.items() if array is not None}
            missing = [name for name in REQUIRED if name not in arrays]
            if missing:
                raise errors.FormatError(
                    f"It lacks {', '.join(missing)}. An npz of codes has: codes uint8 "
                    "[N, L/8] (np.packbits), bits, paths [N]."
                )
            count = arrays["codes"].count
            long = {name: arrays[name] for name in COLUMNS if name in arrays and arrays[name].shape}
            whole = {
                name: array.whole(MAX_ARTIFACT if name == "encoder_artifact" else MAX_HEAD)
                for name, array in arrays.items()
                if name not in long
            }
            for name, array in long.items():
                check_count(count, name, array.count)
            for start in range(0, max(1, count), size):
                rows = min(size, count - start)
                part = {name: array.read(rows) for name, array in long.items()}
                yield _code_set(whole | part)
            for array in long.values():
                array.finish()


def read_npz(path: Path) -> CodeSet:
    """Read a `.npz` of codes; never with pickle allowed.

    Raises:
        FormatError: not an npz, an array is missing, or one has the wrong type or shape.
        InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
    """
    (items,) = NpzSource(Path(path)).batches(1 << 62)
    return items


def _code_set(arrays: Mapping[str, NDArray[Any]]) -> CodeSet:
    artifact = _artifact(arrays)
    labels, metadata = arrays.get("labels"), arrays.get("metadata")
    return CodeSet(
        codes=arrays["codes"],
        bits=codes.check_bits(_integer("bits", arrays["bits"])),
        paths=_texts("paths", arrays["paths"]),
        labels=None if labels is None else _labels(labels),
        content_sha256=_hashes(arrays.get("content_sha256")),
        features=arrays.get("features"),
        encoder=_text(arrays, "encoder"),
        fingerprint=_text(arrays, "encoder_fingerprint"),
        config=_text(arrays, "encoder_config") or _config_of(artifact),
        artifact=artifact,
        root=_text(arrays, "root"),
        metadata=None if metadata is None else _texts("metadata", metadata),
        has_feature=arrays.get("has_feature"),
    )


def _integer(name: str, array: NDArray[Any]) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise errors.FormatError(f"{name} must be one integer, not {described(array)}.")
    return int(array.item())


def _text(arrays: Mapping[str, NDArray[Any]], name: str) -> str | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.size != 1:
        raise errors.FormatError(f"{name} must be one text, not {described(array)}.")
    return _texts(name, array.reshape(1))[0]


def _texts(name: str, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "UST":
        raise errors.FormatError(f"{name} must be texts [N], not {described(array)}.")
    try:
        decoded = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise errors.FormatError(f"{name} must be UTF-8.") from error
    texts: list[str] = decoded.tolist()
    return texts


def _labels(array: NDArray[Any]) -> list[str]:
    """Texts, or the numbers of classes as texts."""
    return _texts("labels", array.astype(np.str_) if array.dtype.kind in "iu" else array)


def _hashes(array: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    """Bytes as they are, or from hex texts; an empty text is a hash that is not known."""
    if array is None or array.dtype.kind not in "US":
        return array
    try:
        data = [
            bytes.fromhex(text) if text else bytes(32) for text in _texts("content_sha256", array)
        ]
    except ValueError as error:
        raise errors.FormatError("content_sha256 is not hex.") from error
    if any(len(digest) != 32 for digest in data):
        raise errors.FormatError("content_sha256 must have 64 hex digits each.")
    return np.frombuffer(b"".join(data), dtype=np.uint8).reshape(-1, 32)


def _artifact(arrays: Mapping[str, NDArray[Any]]) -> bytes | None:
    array = arrays.get("encoder_artifact")
    if array is None:
        return None
    if array.dtype != np.uint8:
        raise errors.FormatError(f"encoder_artifact must be uint8, not {described(array)}.")
    return array.tobytes()


def _config_of(artifact: bytes | None) -> str | None:
    """The config in an artifact's header, where the file does not give it by itself."""
    if artifact is None:
        return None
    size = int.from_bytes(artifact[:8], "little")
    try:
        header = json.loads(artifact[8 : 8 + size])["__metadata__"][ARTIFACT_KEY]
        return json.dumps(json.loads(header)["config"])
    except (ValueError, KeyError, TypeError) as error:
        raise errors.FormatError("encoder_artifact is not an encoder's safetensors.") from error
