"""What a deep method adds to a network while it is trained: its loss, its own layers, and what
names the class afterwards. One entry in `OBJECTIVES` for each deep method of `methods`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import torch
from torch import Tensor, nn

from ..hashing.heads import Classifier, LinearHead
from ..hashing.nesting import widths
from ..hashing.recipes import Recipe
from . import losses
from .targets import check_room, nested_centres

Options = Mapping[str, float]


class Objective(nn.Module):
    """One head's loss: (outputs u [N, L], labels [N], progress) → scalar; progress rises from
    0 to 1 over the training. As a module it is part of the training's state.

    Attributes:
        normalises: whether outputs pass a batch normalisation on their way here; it is folded
            into the head at the end.
    """

    normalises = False

    def __init__(self, bits: int, classes: int, seed: int, options: Options) -> None:
        super().__init__()
        self.bits, self.options = bits, dict(options)

    @staticmethod
    def check(bits: int, classes: int, options: Options) -> None:
        """See before the work whether these bits are enough.

        Raises:
            UsageError: they are not.
        """

    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        raise NotImplementedError

    def classifier(self) -> Classifier | None:
        """What names the class from outputs; None where the loss knows pairs of images only."""
        return None


class Softmax(Objective):
    """With a learnt layer W, b on what the outputs become."""

    activation = "sigmoid"

    def __init__(self, bits: int, classes: int, seed: int, options: Options) -> None:
        super().__init__(bits, classes, seed, options)
        self.layer = nn.Linear(bits, classes)

    def classifier(self) -> Classifier:
        return Classifier(linear(self.layer), self.activation)


class LatentCE(Softmax):
    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        return losses.latent_ce(u, labels, self.layer.weight, self.layer.bias)


class GreedyHash(Softmax):
    activation = "sign"

    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        quantisation = self.options["quantisation"]
        return losses.greedyhash(u, labels, self.layer.weight, self.layer.bias, quantisation)


class Triplet(Objective):
    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        return losses.triplet(u, labels, self.options["margin"])


class HashNet(Objective):
    """β grows as √(1 + growth·progress) does: smoothly, where the paper goes by stages."""

    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        beta = (1 + self.options["growth"] * progress) ** 0.5
        return losses.hashnet(u, labels, self.options["alpha"], beta)


class DCH(Objective):
    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        return losses.dch(u, labels, self.options["gamma"], self.options["quantisation"])


class Centred(Objective):
    """With a fixed target for each class."""

    activation = "tanh"
    targets: Tensor

    def __init__(self, bits: int, classes: int, seed: int, options: Options) -> None:
        super().__init__(bits, classes, seed, options)
        targets = nested_centres(classes, _prefixes(bits, options), seed)
        self.register_buffer("targets", torch.from_numpy(targets).float())

    @staticmethod
    def check(bits: int, classes: int, options: Options) -> None:
        check_room(classes, _prefixes(bits, options))

    def classifier(self) -> Classifier:
        """The inner product with each target: targets are of one length."""
        weight = np.ascontiguousarray(self.targets.detach().cpu().numpy().T)
        bias = np.zeros(weight.shape[1], np.float32)
        return Classifier(LinearHead(weight, bias, normalize=False), self.activation)


class CSQ(Centred):
    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        return losses.csq(u, labels, self.targets, self.options["quantisation"])


class OrthoHash(Centred):
    normalises = True
    activation = "none"

    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        options = self.options
        return losses.orthohash(u, labels, self.targets, options["scale"], options["margin"])


class Nested(Objective):
    """The mean loss of prefixes of the code, each as a code by itself: Σ_p ℓ_p(u[:, :p]) / P.

    Kusupati, Bhatt, Rege, Wallingford, Sinha, Ramanujan, Howard-Snyder, Chen, Kakade, Jain &
    Farhadi, "Matryoshka representation learning", NeurIPS 2022, eq. 1, with equal weights. A
    loss that has a classifier has one for each prefix.

    Args:
        parts: an objective for each prefix, by rising width.
    """

    def __init__(self, parts: Sequence[Objective]) -> None:
        whole = parts[-1]
        super().__init__(whole.bits, 0, 0, whole.options)
        self.normalises = whole.normalises
        self.parts = nn.ModuleList(parts)

    def forward(self, u: Tensor, labels: Tensor, progress: float) -> Tensor:
        found = [part(u[:, : part.bits], labels, progress) for part in self._parts()]
        return torch.stack(found).mean()

    def classifier(self) -> Classifier | None:
        """That of the whole code."""
        return self._parts()[-1].classifier()

    def _parts(self) -> list[Objective]:
        return [cast(Objective, part) for part in self.parts]


OBJECTIVES: Mapping[str, type[Objective]] = {
    "latent_ce": LatentCE,
    "triplet": Triplet,
    "hashnet": HashNet,
    "dch": DCH,
    "greedyhash": GreedyHash,
    "csq": CSQ,
    "orthohash": OrthoHash,
}


def objective(recipe: Recipe, bits: int, classes: int) -> Objective:
    """The loss of one head, as the recipe has it."""
    make = OBJECTIVES[recipe.method]
    parts = [
        make(prefix, classes, recipe.seed, recipe.settings(prefix))
        for prefix in _prefixes(bits, recipe.settings(bits))
    ]
    return parts[0] if len(parts) == 1 else Nested(parts)


def check(recipe: Recipe, classes: int) -> None:
    """See before the work whether each head has bits enough for so many classes.

    Raises:
        UsageError: one has not.
    """
    for bits in recipe.bits:
        OBJECTIVES[recipe.method].check(bits, classes, recipe.settings(bits))


def _prefixes(bits: int, options: Options) -> tuple[int, ...]:
    return widths(bits, int(options.get("nested", 0)))


def linear(
    layer: nn.Linear,
    *,
    before: nn.BatchNorm1d | None = None,
    after: nn.BatchNorm1d | None = None,
    scale: float = 1.0,
) -> LinearHead:
    """A layer as a head: weight [D, L] and bias [L].

    Args:
        layer: of which the head is made.
        before, after: normalisations, which are folded in as they are in evaluation.
        scale: by which the layer's input was multiplied.
    """
    weight = layer.weight.detach().cpu().double() * scale
    bias = layer.bias.detach().cpu().double()
    if before is not None:
        mean, factor = _moments(before)
        weight = weight * factor
        bias = bias - weight @ mean
    if after is not None:
        mean, factor = _moments(after)
        weight, bias = weight * factor[:, None], (bias - mean) * factor
    return LinearHead(
        np.ascontiguousarray(weight.float().cpu().numpy().T),
        bias.float().cpu().numpy(),
        normalize=False,
    )


def _moments(norm: nn.BatchNorm1d) -> tuple[Tensor, Tensor]:
    """The mean that is taken off, and the factor that follows."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    mean, variance = norm.running_mean.cpu().double(), norm.running_var.cpu().double()
    return mean, (variance + norm.eps).rsqrt()
