"""Frozen features: computed once for each image and backbone, and kept in files."""

from __future__ import annotations

import contextlib
import hashlib
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import checkpoint
from .datasets import Images
from .files import home_folder, write_atomically
from .network import NetworkEncoder
from .reading import none_readable, read

BLOCK = 512  # images whose features are computed and kept together


@dataclass(frozen=True)
class Extracted:
    """Features of those images that could be read.

    Attributes:
        rows: int64 [M], which of the images these are.
        features: float32 [M, D].
        sha256: uint8 [M, 32], of their files.
        skipped: what could not be read, and why.
    """

    rows: NDArray[np.int64]
    features: NDArray[np.float32]
    sha256: NDArray[np.uint8]
    skipped: list[str]


@dataclass(frozen=True)
class Prepared:
    """As `Extracted`, with images uint8 [M, C, S, S] as a network takes them."""

    rows: NDArray[np.int64]
    images: NDArray[np.uint8]
    sha256: NDArray[np.uint8]
    skipped: list[str]


def extract(
    encoder: NetworkEncoder,
    images: Images,
    rows: NDArray[np.int64],
    *,
    cache_dir: Path | None = None,
    progress: Callable[[int], None] = lambda images: None,
) -> Extracted:
    """The features of images; those that were computed before come from the cache.

    They are kept block by block, in a folder for each backbone with its preprocessing, and
    found by the SHA-256 of their image. An interrupted run goes on where it ended.

    Args:
        encoder: whose `features` are wanted; its head plays no part.
        images: all images.
        rows: which ones, int64 [N].
        cache_dir: instead of $RETRIEVAL_DB_HOME or the user's cache folder.

    Raises:
        ImageError: none of them can be read.
    """
    store = _Store(home_folder(cache_dir) / "features" / _key(encoder), encoder.feature_dim)
    skipped: list[str] = []
    found: dict[int, bytes] = {}
    new: dict[bytes, NDArray[Any]] = {}

    def compute() -> None:
        store.add(list(new), encoder.features(np.stack(list(new.values()))))
        new.clear()

    for outcome in read(encoder, images, rows, known=store.__contains__):
        progress(1)
        if isinstance(outcome, str):
            skipped.append(outcome)
            continue
        found[outcome.row] = outcome.sha256
        if outcome.array is not None:
            new[outcome.sha256] = outcome.array
        if len(new) == BLOCK:
            compute()
    if new:
        compute()
    if not found:
        raise none_readable(skipped)
    wanted = list(found.values())
    return Extracted(np.array(list(found), np.int64), store.get(wanted), _stacked(wanted), skipped)


class _Store:
    """Blocks of features with the hashes of their images, in a folder.

    A folder that cannot be written, or a damaged block, costs time only.
    """

    def __init__(self, folder: Path, dim: int) -> None:
        self.folder, self.dim = folder, dim
        self.blocks: list[NDArray[np.float32] | Path] = []
        self.places: dict[bytes, tuple[int, int]] = {}
        for path in sorted(folder.glob("*.npz")) if folder.is_dir() else ():
            try:
                with np.load(path, allow_pickle=False) as block:
                    digests = block["sha256"]
                    if block.zip.testzip() is not None:
                        continue
            except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
                continue
            self._note(path, [row.tobytes() for row in digests])

    def __contains__(self, digest: bytes) -> bool:
        return digest in self.places

    def add(self, digests: Sequence[bytes], features: NDArray[np.float32]) -> None:
        name = hashlib.sha256(b"".join(digests)).hexdigest()[:32]
        self._note(features, digests)
        with contextlib.suppress(OSError):
            write_atomically(
                self.folder / f"{name}.npz",
                lambda file: np.savez(file, sha256=_stacked(digests), features=features),
            )

    def get(self, digests: Sequence[bytes]) -> NDArray[np.float32]:
        found = np.empty((len(digests), self.dim), np.float32)
        wanted: dict[int, list[tuple[int, int]]] = {}
        for row, digest in enumerate(digests):
            number, place = self.places[digest]
            wanted.setdefault(number, []).append((row, place))
        for number, pairs in wanted.items():
            block = self.blocks[number]
            if isinstance(block, Path):
                with np.load(block, allow_pickle=False) as content:
                    values = content["features"]
            else:
                values = block
            rows, places = np.array(pairs).T
            found[rows] = values[places]
        return found

    def _note(self, block: NDArray[np.float32] | Path, digests: Sequence[bytes]) -> None:
        for place, digest in enumerate(digests):
            self.places[digest] = (len(self.blocks), place)
        self.blocks.append(block)


def prepare(
    encoder: NetworkEncoder,
    images: Images,
    rows: NDArray[np.int64],
    *,
    progress: Callable[[int], None] = lambda images: None,
) -> Prepared:
    """Decode images and make them ready for the network, in threads; broken ones are left out.

    Raises:
        ImageError: none of them can be read.
    """
    shape = (encoder.preprocess.channels,) + (encoder.preprocess.input_size,) * 2
    arrays = np.empty((len(rows), *shape), np.uint8)
    digests: dict[int, bytes] = {}
    skipped: list[str] = []
    for outcome in read(encoder, images, rows):
        progress(1)
        if isinstance(outcome, str):
            skipped.append(outcome)
        else:
            assert outcome.array is not None
            arrays[len(digests)] = outcome.array
            digests[outcome.row] = outcome.sha256
    if not digests:
        raise none_readable(skipped)
    return Prepared(
        np.array(list(digests), dtype=np.int64),
        arrays[: len(digests)],
        _stacked(list(digests.values())),
        skipped,
    )


def _stacked(digests: Sequence[bytes]) -> NDArray[np.uint8]:
    return np.frombuffer(b"".join(digests), np.uint8).reshape(-1, 32).copy()


def _key(encoder: NetworkEncoder) -> str:
    """Names a backbone, its weights and its preprocessing."""
    config: dict[str, Any] = {
        "backbone": encoder.backbone.to_config(),
        "preprocess": encoder.preprocess.to_config(),
        "precision": encoder.precision,
    }
    if encoder.backbone.sha256 is None:  # its weights are no file: they travel with the encoder
        state = encoder.backbone.module.state_dict()
        weights = {key: value.cpu().numpy() for key, value in state.items()}
        config["weights"] = {"sha256": checkpoint.fingerprint({}, weights)}
    digest = hashlib.sha256(checkpoint.canonical_json(config).encode()).hexdigest()
    return f"{encoder.backbone.name}-{digest[:24]}"
