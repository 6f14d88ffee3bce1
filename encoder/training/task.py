"""Training: labelled images in, encoders with a head for each width out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from retrieval_db.errors import NotEnoughImages, UsageError

from .. import checkpoint, open_all
from ..datasets import Dataset
from ..devices.inference import resolve_device
from ..features import Extracted, Prepared, extract, prepare
from ..hashing.fitted import Head
from ..hashing.recipes import FINE_TUNING, FROM_NOTHING, FROZEN, Recipe
from ..names import BACKBONES
from ..network import NetworkEncoder
from ..networks import backbones, cifar, unfolding
from ..networks.backbones import Backbone
from ..networks.preprocess import Preprocess
from . import loop, objectives
from .feature_heads import descended_heads, fitted_head, trained_heads
from .loop import Epoch
from .sources import PixelSource, Source
from .watch import Watch

Rows = NDArray[np.int64]
UNFOLD_ON = 512  # images
LISTED = 5  # classes that a message names
HASH = 8  # among 10⁸ images two of these are equal with a chance of 1 in 3,700


@dataclass(frozen=True)
class Trained:
    """What came of a training.

    Attributes:
        encoders: one for each width, of one backbone.
        curve: the epochs; empty for methods without any.
        images: how many were learnt from.
        skipped: images that could not be read, and why.
    """

    encoders: tuple[NetworkEncoder, ...]
    curve: tuple[Epoch, ...]
    images: int
    skipped: tuple[str, ...]


def usual_recipe(method: str, backbone: str, frozen: bool) -> Recipe:
    """The recipe that is taken where nothing else is said."""
    if frozen:
        return replace(FROZEN, method=method)
    return replace(FROM_NOTHING if backbone in cifar.NETWORKS else FINE_TUNING, method=method)


def unfitted(
    backbone: str,
    *,
    weights: Path | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
    changes: Mapping[str, object] | None = None,
) -> NetworkEncoder:
    """A backbone with its preprocessing, to be given heads.

    Args:
        backbone: of `BACKBONES`, with its published weights or those of a file; or one of
            `cifar.NETWORKS`, with random ones or those of an encoder.
        weights: a file of weights, or that of an encoder, whose network and preprocessing are
            taken; for one of `cifar.NETWORKS` the latter.
        changes: input_size, mean, std, flip and decoder of the preprocessing.

    Raises:
        as `backbones.load`, and `open_all`.
    """
    if weights is not None and (backbone in cifar.NETWORKS or checkpoint.is_encoder(weights)):
        found, preprocess = _of_encoder(backbone, weights)
    elif backbone not in (*cifar.NETWORKS, *BACKBONES):
        known = ", ".join((*cifar.NETWORKS, *BACKBONES))
        raise UsageError(f"Unknown backbone {backbone!r}. The backbones are {known}.")
    elif backbone in cifar.NETWORKS:
        with torch.random.fork_rng(devices=[]):  # its weights are drawn when it is trained
            module, dim = cifar.network(backbone)
        found = Backbone(backbone, dim, module)
        preprocess = Preprocess(cifar.SIZE, (0.5,) * 3, (0.5,) * 3, crop=1.0)
    else:
        found, preprocess = backbones.load(backbone, weights, cache_dir)
    preprocess = preprocess.changed(**(changes or {}))  # type: ignore[arg-type]
    return NetworkEncoder("unfitted", "itq", 128, found, preprocess, device=device)


def _of_encoder(backbone: str, path: Path) -> tuple[Backbone, Preprocess]:
    """The network of an encoder's file, and its preprocessing."""
    made = open_all(path, device="cpu")[0]
    if not isinstance(made, NetworkEncoder) or made.backbone.name != backbone:
        kind = made.backbone.name if isinstance(made, NetworkEncoder) else made.name
        raise UsageError(f"{path} is an encoder with {kind}, not with {backbone}.")
    return made.backbone, made.preprocess


def train(
    data: Dataset,
    rows: Rows,
    base: NetworkEncoder,
    recipe: Recipe,
    *,
    name: str,
    frozen: bool,
    held_out: Rows | None = None,
    state: Path | None = None,
    resume: bool = False,
    cache_dir: Path | None = None,
    watch: Watch | None = None,
) -> Trained:
    """Learn heads, and with `frozen` False the whole network, from labelled images.

    Args:
        data: a data set.
        rows: the images to learn from, int64 [N].
        base: of `unfitted`; with `frozen` False its module is changed.
        recipe: method, widths, settings.
        name: of the encoder; `NAME-L` where there are several widths.
        frozen: features are computed once, and only heads are learnt.
        held_out: images to watch, which nothing is learnt from.
        state: file that the state is kept in, after each epoch; to be deleted when the encoders
            are safe.
        resume: go on where `state` ends.

    Raises:
        NotEnoughImages: fewer than two classes, or a class with a single image that can be read.
        UsageError: a method that cannot do this; see also `loop.train`.
        ImageError: no image can be read.
    """
    watch = watch or Watch()
    if not frozen and not recipe.kind.trained:
        raise UsageError(
            f"{recipe.method} is fitted on features that stay as they are: add --frozen, "
            "or choose a method such as orthohash."
        )
    if frozen and _untrained(base):
        instead = "leave out --frozen, " if recipe.kind.trained else ""
        raise UsageError(
            f"{base.backbone.name} begins with random weights, so it cannot be frozen"
            f"{'' if instead else f', as {recipe.method} needs it'}: {instead}give an encoder that "
            "has it as --weights, or choose a pretrained backbone such as mobilenet_v2."
        )
    if recipe.kind.supervised:
        _check_classes(data, rows)
    if recipe.kind.trained:
        objectives.check(recipe, len(np.unique(data.labels[rows])))
    task = _Task(data, rows, base, recipe, name, held_out, state, resume, cache_dir, watch)
    return task.heads() if frozen else task.network()


@dataclass(frozen=True)
class _Task:
    """What `train` was given."""

    data: Dataset
    rows: Rows
    base: NetworkEncoder
    recipe: Recipe
    name: str
    held_out: Rows | None
    state: Path | None
    resume: bool
    cache_dir: Path | None
    watch: Watch

    def heads(self) -> Trained:
        """Learn heads on features that are computed once."""
        found = self._extracted("Features", self.rows)
        if self.recipe.kind.supervised:
            _check_read(self.data, self.rows, found)
        numbers, classes = _numbered(self.data, found.rows)
        curve: list[Epoch] = []
        if self.recipe.kind.trained:
            tested = None
            if self.held_out is not None and len(self.held_out):
                other = self._extracted("Features to watch", self.held_out)
                tested = (other.features, _number_as(self.data, other.rows, classes))
            heads, curve = descended_heads(
                found.features,
                numbers,
                classes,
                self.recipe,
                device=self.base.device,
                held_out=tested,
                state=self.state,
                resume=self.resume,
                watch=self.watch,
            )
        else:
            heads = {
                bits: fitted_head(found.features, numbers, classes, self.recipe, bits)
                for bits in self.recipe.bits
            }
        encoders = self._encoders(self.base, self.base.backbone, heads, found.sha256)
        return Trained(encoders, tuple(curve), len(found.rows), tuple(found.skipped))

    def network(self) -> Trained:
        """Learn the whole network, and heads on it."""
        data, base, recipe = self.data, self.base, self.recipe
        done = self.watch.images("Reading", len(self.rows))
        found = prepare(base, data.images, self.rows, progress=done)
        if recipe.kind.supervised:
            _check_read(data, self.rows, found)
        numbers, classes = _numbered(data, found.rows)
        if _untrained(base):
            base = replace(base, preprocess=_measured(base.preprocess, found.images))
        device = resolve_device(base.device)
        source = PixelSource(
            found.images,
            base.preprocess,
            device,
            shift=recipe.shift,
            mirror=recipe.mirror,
            seed=recipe.seed,
        )
        # The source has a copy, and they may take most of the memory.
        found = replace(found, images=found.images[:0].copy())
        tested = self._watched(base, device, classes)
        beginning = None if _untrained(base) else base.backbone.weights_sha256()
        body = _fresh(base, source, recipe)
        described = base.backbone.to_config() | {"sha256": beginning}
        settled = described, base.preprocess.to_config(), base.device
        told = (
            checkpoint.canonical_json(settled).encode() + found.sha256.tobytes() + numbers.tobytes()
        )
        result = loop.train(
            body,
            base.feature_dim,
            source,
            numbers,
            len(classes),
            recipe,
            device=base.device,
            held_out=tested,
            state=self.state,
            resume=self.resume,
            identity=hashlib.sha256(told).hexdigest(),
            report=self.watch.epoch,
            progress=self.watch.images("Training", loop.shown(len(found.rows), recipe)),
        )
        body.requires_grad_(False).to("cpu").to(memory_format=torch.contiguous_format)
        backbone = Backbone(base.backbone.name, base.feature_dim, body)
        heads = trained_heads(result, classes, recipe, len(found.rows))
        encoders = self._encoders(base, backbone, heads, found.sha256)
        return Trained(encoders, tuple(result.curve), len(found.rows), tuple(found.skipped))

    def _watched(
        self, base: NetworkEncoder, device: torch.device, classes: tuple[str, ...]
    ) -> tuple[Source, Rows] | None:
        """The images that were held out, and their labels."""
        if self.held_out is None or not len(self.held_out):
            return None
        found = prepare(base, self.data.images, self.held_out)
        source = PixelSource(found.images, base.preprocess, device)
        return source, _number_as(self.data, found.rows, classes)

    def _extracted(self, what: str, rows: Rows) -> Extracted:
        done = self.watch.images(what, len(rows))
        return extract(self.base, self.data.images, rows, cache_dir=self.cache_dir, progress=done)

    def _encoders(
        self,
        base: NetworkEncoder,
        backbone: Backbone,
        heads: Mapping[int, Head],
        sha256: NDArray[np.uint8],
    ) -> tuple[NetworkEncoder, ...]:
        return tuple(
            NetworkEncoder(
                name=self.name if len(heads) == 1 else f"{self.name}-{bits}",
                method=self.recipe.method,
                bits=bits,
                backbone=backbone,
                preprocess=base.preprocess,
                head=head,
                seed=self.recipe.seed,
                device=base.device,
                training_sha256=sha256,
            )
            for bits, head in heads.items()
        )


def _untrained(base: NetworkEncoder) -> bool:
    """Whether its weights are random; those of a file are kept as they are."""
    weights = base.backbone.module.parameters()
    return base.backbone.name in cifar.NETWORKS and any(each.requires_grad for each in weights)


def _fresh(base: NetworkEncoder, source: PixelSource, recipe: Recipe) -> nn.Module:
    """The network as the training begins with it."""
    if not _untrained(base):
        module = base.backbone.module.requires_grad_(True)
        if base.backbone.name in cifar.NETWORKS:
            cifar.keep_whitening(module)
        if unfolding.folded(module):
            sample = torch.linspace(0, len(source) - 1, min(len(source), UNFOLD_ON)).long()
            unfolding.unfold(module, source.plain(sample).cpu())
        return module
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(recipe.seed)
        body, _ = cifar.network(base.backbone.name)
    sample = torch.arange(min(len(source), 5000))
    cifar.whiten(body, source.plain(sample).cpu())
    return body


def _measured(preprocess: Preprocess, images: NDArray[np.uint8]) -> Preprocess:
    """With mean and standard deviation of these images; rounded for short numbers in JSON."""
    sample = images[:: max(1, len(images) // 5000)].astype(np.float64) / 255
    mean = sample.mean(axis=(0, 2, 3)).round(4).tolist()
    std = sample.std(axis=(0, 2, 3)).round(4).clip(min=0.01).tolist()
    return replace(preprocess, mean=tuple(mean), std=tuple(std))


def compact(encoders: tuple[NetworkEncoder, ...]) -> tuple[NetworkEncoder, ...]:
    """The same encoders in half of the bytes: weights that half precision holds exactly, and
    the first `HASH` bytes of each training image's SHA-256.

    Measure them afterwards: an output near 0 may change its sign.
    """
    module = encoders[0].backbone.module.half().float()
    return tuple(
        replace(
            encoder,
            backbone=replace(encoder.backbone, module=module),
            head=None if encoder.head is None else encoder.head.halved(),
            training_sha256=None
            if encoder.training_sha256 is None
            else np.ascontiguousarray(encoder.training_sha256[:, :HASH]),
        )
        for encoder in encoders
    )


def _check_classes(data: Dataset, rows: Rows) -> None:
    """Refuse labels that nothing can be learnt from."""
    numbers, sizes = np.unique(data.labels[rows], return_counts=True)
    if len(numbers) < 2:
        one = f" (all are {data.classes[int(numbers[0])]!r})" if len(numbers) else ""
        raise NotEnoughImages(
            f"{data.name}: training needs images of at least two classes{one}. "
            "`--method itq` needs no labels."
        )
    alone = [data.classes[int(number)] for number in numbers[sizes < 2]]
    if alone:
        raise NotEnoughImages(
            f"{data.name}: a class needs at least two images to be learnt; one alone is there "
            f"of {_listed(alone)}."
        )


def _check_read(data: Dataset, rows: Rows, found: Extracted | Prepared) -> None:
    """Refuse classes of which too few images could be read; `_check_classes` came before."""
    left = np.bincount(data.labels[found.rows], minlength=len(data.classes))
    broken = data.labels[rows[~np.isin(rows, found.rows)]]
    short = np.unique(broken[left[broken] < 2])
    if len(short):
        # Reasons are in the order of the images.
        reason = found.skipped[int(np.isin(broken, short).argmax())]
        raise NotEnoughImages(
            f"{data.name}: a class needs at least two images to be learnt; fewer can be read of "
            f"{_listed([data.classes[number] for number in short.tolist()])}. The first that "
            f"cannot: {reason}."
        )


def _listed(classes: Sequence[str]) -> str:
    return ", ".join(map(repr, classes[:LISTED])) + (", …" if len(classes) > LISTED else "")


def _numbered(data: Dataset, rows: Rows) -> tuple[Rows, tuple[str, ...]]:
    """The labels of these images as numbers of the classes that occur, and these classes."""
    present, numbers = np.unique(data.labels[rows], return_inverse=True)
    return numbers.astype(np.int64), tuple(data.classes[int(index)] for index in present)


def _number_as(data: Dataset, rows: Rows, classes: tuple[str, ...]) -> Rows:
    """Their labels as numbers of these classes; −1 for other classes."""
    number = {name: index for index, name in enumerate(classes)}
    return np.array([number.get(data.label_name(row), -1) for row in rows.tolist()], np.int64)
