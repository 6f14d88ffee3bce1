"""Codes with what belongs to them, in memory and as `.npz` files."""

from __future__ import annotations

import os
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import codes, errors

REQUIRED = ("codes", "bits", "paths")


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

    def __post_init__(self) -> None:
        codes.check_packed(self.codes, self.bits)
        count = len(self.codes)
        for name in ("paths", "labels", "content_sha256", "features"):
            value = getattr(self, name)
            if value is not None and len(value) != count:
                raise errors.FormatError(f"{count} codes, but {len(value)} {name}.")
        if self.features is not None and not np.isfinite(self.features).all():
            raise errors.FormatError("The features contain NaN or infinity.")

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
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise errors.FormatError(f"There is no file {path}.") from error
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        reason = "it holds pickled objects" if "pickle" in str(error) else str(error)
        raise errors.FormatError(f"{path} is not an npz of plain arrays: {reason}") from error
    missing = [name for name in REQUIRED if name not in arrays]
    if missing:
        raise errors.FormatError(
            f"{path} lacks {', '.join(missing)}. An npz of codes has: codes uint8 [N, L/8] "
            "(np.packbits), bits, paths [N]."
        )
    return CodeSet(
        codes=arrays["codes"],
        bits=codes.check_bits(_integer(path, arrays["bits"])),
        paths=_texts(path, "paths", arrays["paths"]),
        labels=_texts(path, "labels", arrays["labels"]) if "labels" in arrays else None,
        content_sha256=_hashes(path, arrays.get("content_sha256")),
        features=_features(path, arrays.get("features")),
        encoder=_text(arrays, "encoder"),
        fingerprint=_text(arrays, "encoder_fingerprint"),
        config=_text(arrays, "encoder_config"),
        artifact=arrays["encoder_artifact"].tobytes() if "encoder_artifact" in arrays else None,
    )


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
    }
    arrays |= {name: np.str_(value) for name, value in texts.items() if value is not None}
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.savez(file, **arrays)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside `path` that takes its place when all has been written."""
    try:
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


def _integer(path: Path, array: NDArray[Any]) -> int:
    if array.ndim or array.dtype.kind not in "iu":
        raise errors.FormatError(f"{path}: bits must be one integer.")
    return int(array)


def _text(arrays: dict[str, NDArray[Any]], name: str) -> str | None:
    return str(arrays[name].item()) if name in arrays else None


def _texts(path: Path, name: str, array: NDArray[Any]) -> list[str]:
    if array.ndim != 1 or array.dtype.kind not in "US":
        raise errors.FormatError(
            f"{path}: {name} must be texts [N], not {array.dtype} {list(array.shape)}."
        )
    try:
        return [
            str(t) for t in (np.char.decode(array, "utf-8") if array.dtype.kind == "S" else array)
        ]
    except UnicodeDecodeError as error:
        raise errors.FormatError(f"{path}: {name} are not UTF-8.") from error


def _hashes(path: Path, array: NDArray[Any] | None) -> NDArray[np.uint8] | None:
    if array is None:
        return None
    if array.dtype.kind in "US":
        try:
            return np.stack([np.frombuffer(bytes.fromhex(str(t)), dtype=np.uint8) for t in array])
        except ValueError as error:
            raise errors.FormatError(f"{path}: content_sha256 is not hex.") from error
    if array.dtype != np.uint8 or array.ndim != 2 or array.shape[1] != 32:
        raise errors.FormatError(f"{path}: content_sha256 must be uint8 [N, 32] or hex texts [N].")
    return array


def _features(path: Path, array: NDArray[Any] | None) -> NDArray[np.floating] | None:
    if array is not None and (array.ndim != 2 or array.dtype.kind != "f"):
        raise errors.FormatError(
            f"{path}: features must be floats [N, D], not {array.dtype} {list(array.shape)}."
        )
    return array
