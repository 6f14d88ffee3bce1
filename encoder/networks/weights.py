"""Weights files of backbones: known by their SHA-256, downloaded once, remembered per user."""

from __future__ import annotations

import hashlib
import logging
import re
import shutil
import urllib.request
from pathlib import Path
from typing import IO

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from retrieval_db.errors import FormatError, UsageError

from ..files import home_folder, write_atomically

logger = logging.getLogger(__name__)

SUFFIXES = (".safetensors", ".pth")
TIMEOUT = 30  # seconds without a byte


def cache_folder(cache_dir: Path | None = None) -> Path:
    """Where weights given by file are remembered: `weights` in `cache_dir`,
    $RETRIEVAL_DB_HOME or the user's cache folder."""
    return home_folder(cache_dir) / "weights"


def sha256_of(path: Path) -> str:
    """SHA-256 (hex) of a file.

    Raises:
        UsageError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise UsageError(f"The weights file {path} cannot be read: {error.strerror}.") from error


def remember(path: Path, sha256: str, cache_dir: Path | None = None) -> None:
    """Copy a weights file into the cache under its SHA-256, so that a later command finds it."""
    folder = cache_folder(cache_dir)
    suffix = ".safetensors" if path.suffix == ".safetensors" else ".pth"
    target = folder / (sha256 + suffix)
    if target.exists() and target.stat().st_size == path.stat().st_size:
        return
    try:
        with path.open("rb") as source:
            write_atomically(target, lambda file: shutil.copyfileobj(source, file))
    except OSError as error:
        # Remembering is a convenience: a read-only home must not stop the work.
        logger.warning("The weights are not remembered in %s: %s", folder, error)


def recall(sha256: str, cache_dir: Path | None = None) -> Path | None:
    """The remembered weights file with this SHA-256; None if it is not there, or damaged."""
    for suffix in SUFFIXES:
        path = cache_folder(cache_dir) / (sha256 + suffix)
        if path.is_file():
            if sha256_of(path) == sha256:
                return path
            logger.warning("Ignoring %s: its content has another SHA-256.", path)
    return None


def read_state_dict(path: Path) -> dict[str, torch.Tensor]:
    """Read a .safetensors file, or a torch file (.pth, .pt) with nothing but tensors in it.

    Raises:
        FormatError: it is neither, or it is damaged.
    """
    try:
        if path.suffix == ".safetensors":
            state: object = load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except SafetensorError as error:
        raise FormatError(f"{path} is not a safetensors file, or damaged: {error}") from error
    except Exception as error:  # torch.load raises what the unpickler or zip reader happen to
        raise FormatError(
            f"{path} is not a torch file that holds weights only, or it is damaged."
        ) from error
    if isinstance(state, dict) and "state_dict" in state:  # a training checkpoint
        state = state["state_dict"]
    if not isinstance(state, dict) or not all(
        isinstance(key, str) and isinstance(value, torch.Tensor) for key, value in state.items()
    ):
        raise FormatError(f"{path} holds something else than named weights.")
    return state


def published_path(url: str) -> Path:
    """Where torch keeps the file of this address ($TORCH_HOME moves it)."""
    return Path(torch.hub.get_dir()) / "checkpoints" / url.rsplit("/", 1)[-1]


def has_published_hash(sha256: str, url: str) -> bool:
    """Whether the SHA-256 is the one whose beginning torchvision puts into the file's name."""
    match = re.search(r"-([0-9a-f]{8,})\.pth$", url)
    return match is not None and sha256.startswith(match[1])


def download(url: str, path: Path) -> None:
    """Fetch a file, whole or not at all.

    Raises:
        OSError: no network, or the server says no (urllib's URLError is one).
        FormatError: what came is not the file that was published.
    """
    logger.info("Downloading %s to %s", url, path)

    def fetch(file: IO[bytes]) -> None:
        digest = hashlib.sha256()
        with urllib.request.urlopen(url, timeout=TIMEOUT) as response:
            while block := response.read(1 << 20):
                digest.update(block)
                file.write(block)
        if not has_published_hash(digest.hexdigest(), url):
            raise FormatError(f"What came from {url} is not the published file; try again.")

    write_atomically(path, fetch)
