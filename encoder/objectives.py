"""What a deep method adds to a network while it is trained: its loss, its own layers, and what
names the class afterwards. One entry in `OBJECTIVES` for each deep method of `methods`."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from . import losses
from .heads import Classifier, LinearHead
from .targets import centres

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
        self.register_buffer("targets", torch.from_numpy(centres(classes, bits, seed)).float())

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


OBJECTIVES: Mapping[str, Callable[[int, int, int, Options], Objective]] = {
    "latent_ce": LatentCE,
    "triplet": Triplet,
    "hashnet": HashNet,
    "dch": DCH,
    "greedyhash": GreedyHash,
    "csq": CSQ,
    "orthohash": OrthoHash,
}


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
