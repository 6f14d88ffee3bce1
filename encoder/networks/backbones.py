"""Backbones: torchvision's networks up to their last layer, with weights known by SHA-256."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

from retrieval_db.errors import EncoderUnavailable, FormatError, UsageError

from ..names import BACKBONES
from . import weights as weight_files
from .preprocess import Preprocess, read_settings


@dataclass(frozen=True)
class Backbone:
    """A network that turns normalised images [N, C, S, S] into features [N, D].

    Attributes:
        name: as torchvision calls it, or `small_cnn`.
        feature_dim: D.
        module: the network.
        published: name of the weights in torchvision, `IMAGENET1K_V2`; None for a local file.
        sha256: of the weights file; None where the weights travel in the encoder's artifact.
    """

    name: str
    feature_dim: int
    module: nn.Module = field(repr=False)
    published: str | None = None
    sha256: str | None = None

    def to_config(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "feature_dim": self.feature_dim,
            "published": self.published,
            "sha256": self.sha256,
        }

    def weights_sha256(self) -> str:
        """Of the weights' file; where there is none, as after a training, of the weights."""
        if self.sha256 is not None:
            return self.sha256
        digest = hashlib.sha256()
        for key, value in sorted(self.module.state_dict().items()):
            digest.update(key.encode() + value.float().cpu().contiguous().numpy().tobytes())
        return digest.hexdigest()


def load(
    name: str, weights: Path | None = None, cache_dir: Path | None = None
) -> tuple[Backbone, Preprocess]:
    """Load a backbone with a local weights file, or else with torchvision's published weights.

    A local file is remembered by its SHA-256. The preprocessing is that of the published
    weights; other weights get the whole central square, and `FILE.json` beside them overrules
    all of it.

    Raises:
        UsageError: unknown backbone, or a file that is not there.
        FormatError: the file does not hold weights of this backbone.
        EncoderUnavailable: the published weights are not here and cannot be downloaded.
    """
    entry = _published(name)
    published, preprocess = entry.name, _preset(entry)
    path = weights or _fetch(name, entry, alternative="`--encoder phash64`")
    sha256 = weight_files.sha256_of(path)
    if weights is not None:
        # Somebody may have downloaded the published file elsewhere: then nothing differs.
        if not weight_files.has_published_hash(sha256, entry.url):
            published, preprocess = None, replace(preprocess, crop=1.0)
        preprocess = read_settings(weights, preprocess)
    module, dim = _build(name, path)
    if weights is not None:
        weight_files.remember(weights, sha256, cache_dir)
    return Backbone(name, dim, module, published, sha256), preprocess


def restore(
    config: Mapping[str, Any], weights: Path | None = None, cache_dir: Path | None = None
) -> Backbone:
    """Load the backbone of a stored encoder: from `weights`, the cache or torchvision.

    Args:
        config: what `Backbone.to_config` gave.

    Raises:
        EncoderUnavailable: no file with the SHA-256 of the config is to be had.
        FormatError: the config is damaged.
    """
    name, sha256, published = config["name"], config["sha256"], config["published"]
    if name not in BACKBONES or not isinstance(sha256, str):
        raise FormatError(f"There is no backbone {name!r} with weights {sha256!r}.")
    if weights is not None:
        given = weight_files.sha256_of(weights)
        if given != sha256:
            raise EncoderUnavailable(
                f"{weights} is not the weights file that this encoder was made with: its "
                f"SHA-256 is {given}, that of the {name} weights needed is {sha256}."
            )
        weight_files.remember(weights, sha256, cache_dir)
    path = weights or weight_files.recall(sha256, cache_dir)
    if path is None and published is not None:
        path = _fetch(name, _published(name, published))
        if weight_files.sha256_of(path) != sha256:
            raise EncoderUnavailable(
                f"{path} is not the file that this encoder was made with. Delete it, or pass "
                f"the {name} weights with SHA-256 {sha256} as `--weights FILE`."
            )
    if path is None:
        target = weight_files.cache_folder(cache_dir) / f"{sha256}.safetensors"
        raise EncoderUnavailable(
            f"This encoder needs the {name} weights with SHA-256 {sha256}, which are not on "
            f"this machine. Pass the file with `--weights FILE`, or put it at {target}."
        )
    module, dim = _build(name, path)
    return Backbone(name, dim, module, published, sha256)


def _published(name: str, weights: str = "DEFAULT") -> Any:
    """torchvision's entry for the weights of a backbone: name, url, transforms."""
    if name not in BACKBONES:
        raise UsageError(f"Unknown backbone {name!r}. The backbones are {', '.join(BACKBONES)}.")
    try:
        return torchvision.models.get_model_weights(name)[weights]
    except KeyError as error:
        raise EncoderUnavailable(
            f"The installed torchvision has no {name} weights {weights}: upgrade torchvision, "
            "or pass the file with `--weights FILE`."
        ) from error


def _preset(entry: Any) -> Preprocess:
    """The preprocessing of published weights. Resizing the shorter side to `resize_size` and
    cropping `crop_size` from the middle is one resize of a central square here."""
    preset = entry.transforms()
    (crop,), (resize,) = preset.crop_size, preset.resize_size
    return Preprocess(
        input_size=crop,
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        interpolation=preset.interpolation.value,
        crop=crop / resize,
    )


def _fetch(name: str, entry: Any, alternative: str | None = None) -> Path:
    """The published file, downloaded if it is not here yet."""
    path = weight_files.published_path(entry.url)
    if path.is_file():
        if not weight_files.has_published_hash(weight_files.sha256_of(path), entry.url):
            raise FormatError(f"{path} is not the published file: delete it and try again.")
        return path
    try:
        weight_files.download(entry.url, path)
    except OSError as error:
        reason = getattr(error, "reason", None) or error.strerror or error
        raise EncoderUnavailable(
            f"The published weights of {name} cannot be downloaded ({reason}). Either pass a "
            f"local file with `--weights FILE`, or download {entry.url} elsewhere and put it "
            f"at {path}" + (f", or use {alternative}, which needs none." if alternative else ".")
        ) from error
    return path


def _build(name: str, path: Path) -> tuple[nn.Module, int]:
    """The network without its last layer, with the weights of `path`; and D.

    Raises:
        FormatError: weights are missing in the file, left over, or of another shape.
    """
    module, dim, prefix = skeleton(name)
    state = weight_files.read_state_dict(path)
    state = {
        key: value.float() if value.is_floating_point() else value
        for key, value in state.items()
        if not key.startswith(prefix)
    }
    for key in module.state_dict():
        if key.endswith("num_batches_tracked"):  # counts training steps; some files lack it
            state.setdefault(key, torch.tensor(0))
    try:
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        detail = " ".join(str(error).split())
        raise FormatError(
            f"{path} does not hold the weights of torchvision's {name}: {detail[:300]}"
        ) from error
    return module.eval().requires_grad_(False), dim


def skeleton(name: str) -> tuple[nn.Module, int, str]:
    """A backbone without weights, its last linear layer, which names ImageNet's classes, cut off.

    Returns:
        the network on the device `meta`, where nothing is allocated or initialised;
        D; and how the names of the weights of the layer that was cut off begin.
    """
    with torch.device("meta"):
        module: nn.Module = torchvision.models.get_model(name, weights=None)
    path, last = [item for item in module.named_modules() if isinstance(item[1], nn.Linear)][-1]
    assert isinstance(last, nn.Linear)
    parent, _, attribute = path.rpartition(".")
    setattr(module.get_submodule(parent), attribute, nn.Identity())
    return module, last.in_features, path + "."
