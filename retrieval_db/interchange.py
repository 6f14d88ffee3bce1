"""Codes with what belongs to them, in memory and as `.npz` files."""

from __future__ import annotations

import errno
import json
import os
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codes, errors

REQUIRED = ("codes", "bits", "paths")

# Where the header of an encoder's safetensors holds its name and config.
ARTIFACT_KEY = "retrieval_db_encoder"

# Features are stored as pgvector's halfvec, which has these limits.
MAX_FEATURE = 65_504
MAX_FEATURE_DIM = 16_000


@dataclass(frozen=True)
class CodeSet:
    """Hash codes of N images, and what is known of the images and of the encoder.

    Attributes:
        codes: uint8 [N, ceil(L/8)], in `np.packbits` order.
        bits: L.
        paths: N paths.
        labels: N labels, each may be None; or None.
        content_sha256: uint8 [N, 32], or None.
        features: float16 or float32 [N, D], or None.
        encoder: the encoder's name, or None.
        fingerprint: SHA-256 (hex) over the encoder's config and weights, or None.
        config: the encoder's config as JSON text, or None.
        artifact: the encoder's weights as safetensors, or None.
        root: the folder that relative paths start from, or None.

    Raises:
        FormatError: lengths, types or values that do not fit.
        InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
    """

    codes: NDArray[np.uint8]
    bits: int
    paths: Sequence[str]
    labels: Sequence[str | None] | None = None
    content_sha256: NDArray[np.uint8] | None = None
    features: NDArray[np.floating] | None = None
    encoder: str | None = None
    fingerprint: str | None = None
    config: str | None = None
    artifact: bytes | None = None
    root: str | None = None

    def __post_init__(self) -> None:
        codes.check_packed(self.codes, self.bits)
        count = len(self.codes)
        for name in ("paths", "labels", "content_sha256", "features"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise errors.FormatError(f"{count} codes, but {len(value)} {name}.")
        if self.content_sha256 is not None:
            _check_hashes(self.content_sha256)
        if self.features is not None:
            _check_features(self.features)

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: NDArray[np.intp] | slice) -> CodeSet:
        """The codes of some rows, given by their indices or a slice."""

        def pick(values: Sequence[Any]) -> Sequence[Any]:
            if isinstance(rows, slice) or isinstance(values, np.ndarray):
                return values[rows]
            return [values[row] for row in rows]

        return replace(
            self,
            codes=self.codes[rows],
            paths=pick(self.paths),
            labels=None if self.labels is None else pick(self.labels),
            content_sha256=None if self.content_sha256 is None else self.content_sha256[rows],
            features=None if self.features is None else self.features[rows],
        )


def read_npz(path: Path) -> CodeSet:
    """Read a `.npz` of codes; never with pickle allowed.

    Raises:
        FormatError: not an npz, an array is missing, or one has the wrong type or shape.
        InvalidCode, WrongWidth: the codes are not packed codes of `bits` bits.
    """
    arrays = _arrays(path)
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise errors.FormatError(
            f"{path} lacks {', '.join(missing)}. An npz of codes has: codes uint8 [N, L/8] "
            "(np.packbits), bits, paths [N]."
        )
    try:
        artifact = _artifact(arrays)
        return CodeSet(
            codes=arrays["codes"],
            bits=codes.check_bits(_integer("bits", arrays["bits"])),
            paths=_texts("paths", arrays["paths"]),
            labels=_labels(arrays.get("labels")),
            content_sha256=_hashes(arrays.get("content_sha256")),
            features=arrays.get("features"),
            encoder=_text(arrays, "encoder"),
            fingerprint=_text(arrays, "encoder_fingerprint"),
            config=_text(arrays, "encoder_config") or _config_of(artifact),
            artifact=artifact,
            root=_text(arrays, "root"),
        )
    except errors.RetrievalError as error:
        raise type(error)(f"{path}: {error}") from error


def write_npz(path: Path, items: CodeSet) -> None:
    """Write a `.npz` of codes; the file is there whole or not at all."""
    arrays: dict[str, Any] = {
        "codes": items.codes,
        "bits": np.int64(items.bits),
        "paths": np.array(list(items.paths), dtype=np.str_),
    }
    if items.labels is not None:
        arrays["labels"] = np.array([label or "" for label in items.labels], dtype=np.str_)
    if items.content_sha256 is not None:
        arrays["content_sha256"] = items.content_sha256
    if items.features is not None:
        arrays["features"] = items.features
    if items.artifact is not None:
        arrays["encoder_artifact"] = np.frombuffer(items.artifact, dtype=np.uint8)
    texts = {
        "encoder": items.encoder,
        "encoder_fingerprint": items.fingerprint,
        "encoder_config": items.config,
        "root": items.root,
    }
    arrays |= {name: np.str_(value) for name, value in texts.items() if value is not None}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all has been written.

    Raises:
        FormatError: nothing can be written there.
    """
    try:
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    except OSError as error:
        raise errors.FormatError(f"Cannot write {path}: {error.strerror}.") from error
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _arrays(path: Path) -> dict[str, NDArray[Any]]:
    try:
        if not zipfile.is_zipfile(path):
            path.open("rb").close()
            raise errors.FormatError(f"{path} is not an npz file.")
        with np.load(path, allow_pickle=False) as archive:
            found = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise errors.FormatError(f"There is no file {path}.") from error
    # zipfile and NumPy raise many types on damaged files.
    except (ValueError, OSError, EOFError, RuntimeError, MemoryError, zipfile.error) as error:
        reason = "it holds pickled objects" if "pickle" in str(error) else str(error)
        raise errors.FormatError(f"{path} is not an npz of plain arrays: {reason}") from error
    except zlib.error as error:
        raise errors.FormatError(f"{path} is damaged: {error}") from error
    return {name: array for name, array in found.items() if isinstance(array, np.ndarray)}


def _described(array: NDArray[Any]) -> str:
    return f"{array.dtype} {list(array.shape)}"


def _integer(name: str, array: NDArray[Any]) -> int:
    if array.size != 1 or array.dtype.kind not in "iu":
        raise errors.FormatError(f"{name} must be one integer, not {_described(array)}.")
    return int(array.item())


def _text(arrays: Mapping[str, NDArray[Any]], name: str) -> str | None:
    if name not in arrays:
        return None
    array = arrays[name]
    if array.size != 1:
        raise errors.FormatError(f"{name} must be one text, not {_described(array)}.")
    return _texts(name, array.reshape(1))[0]


def _texts(name: str, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise errors.FormatError(f"{name} must be texts [N], not {_described(array)}.")
    try:
        decoded = np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array
    except UnicodeDecodeError as error:
        raise errors.FormatError(f"{name} must be UTF-8.") from error
    texts: list[str] = decoded.tolist()
    return texts


def _labels(array: NDArray[Any] | None) -> list[str] | None:
    """Texts, or the numbers of classes as texts."""
    if array is None:
        return None
    return _texts("labels", array.astype(np.str_) if array.dtype.kind in "iu" else array)


def _hashes(array: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    """Bytes as they are, or from hex texts."""
    if array is None or array.dtype.kind not in "US":
        return array
    try:
        data = [bytes.fromhex(text) for text in _texts("content_sha256", array)]
    except ValueError as error:
        raise errors.FormatError("content_sha256 is not hex.") from error
    if any(len(digest) != 32 for digest in data):
        raise errors.FormatError("content_sha256 must have 64 hex digits each.")
    return np.frombuffer(b"".join(data), dtype=np.uint8).reshape(-1, 32)


def _check_hashes(array: NDArray[Any]) -> None:
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 32:
        raise errors.FormatError(
            f"content_sha256 must be uint8 [N, 32] or hex texts [N], not {_described(array)}."
        )


def _check_features(array: NDArray[Any]) -> None:
    if array.ndim != 2 or array.dtype.kind != "f" or not 1 <= array.shape[1] <= MAX_FEATURE_DIM:
        raise errors.FormatError(
            f"features must be floats [N, D], D up to {MAX_FEATURE_DIM}, not {_described(array)}."
        )
    # NaN spreads to both ends, and is not within any limit.
    if array.size and not (array.min() >= -MAX_FEATURE and array.max() <= MAX_FEATURE):
        raise errors.FormatError(
            "The features contain NaN, infinity, or numbers too large for half precision "
            f"(±{MAX_FEATURE})."
        )


def _artifact(arrays: Mapping[str, NDArray[Any]]) -> bytes | None:
    array = arrays.get("encoder_artifact")
    if array is None:
        return None
    if array.dtype != np.uint8:
        raise errors.FormatError(f"encoder_artifact must be uint8, not {_described(array)}.")
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
