"""What a network is trained on: rows of features, or images that change from epoch to epoch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..hashing.heads import Float32, Float64, LinearHead, blocks, unit_rows
from ..networks.preprocess import Preprocess

KEPT = 0.5  # share of a GPU's free memory that images may take
ROWS = 512  # images that are laid out at a time


class Source(Protocol):
    """N inputs of a network, on its device."""

    def __len__(self) -> int:
        """N."""

    def batch(self, rows: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        """The inputs of these rows in an epoch of the training; what is random about them is
        drawn from `generator`."""

    def plain(self, rows: Tensor) -> Tensor:
        """The inputs of these rows, unchanged."""


@dataclass(frozen=True)
class Standard:
    """x → (x/‖x‖ − mean)/scale: features as gradient descent likes them.

    Attributes:
        mean: [D] float64.
        scale: the standard deviation over all dimensions together.
    """

    mean: Float64
    scale: float

    @classmethod
    def of(cls, features: Float32) -> Standard:
        x = unit_rows(features)
        mean = x.mean(axis=0)
        x -= mean
        np.square(x, out=x)
        return cls(mean, max(float(np.sqrt(x.mean())), 1e-12))

    def __call__(self, features: Float32) -> Float32:
        found = np.empty(features.shape, np.float32)
        for rows in blocks(len(features)):
            found[rows] = (unit_rows(features[rows]) - self.mean) / self.scale
        return found

    def folded(self, head: LinearHead) -> LinearHead:
        """The head on raw features that does what `head` does on these."""
        weight = (head.weight.astype(np.float64) / self.scale).astype(np.float32)
        bias = head.bias - self.mean @ weight.astype(np.float64)
        return LinearHead(weight, bias.astype(np.float32), normalize=True)


class FeatureSource:
    """Features [N, D], as they are."""

    def __init__(self, features: Float32, device: torch.device) -> None:
        self.features = torch.from_numpy(features).to(device)

    def __len__(self) -> int:
        return len(self.features)

    def batch(self, rows: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        return self.plain(rows)

    def plain(self, rows: Tensor) -> Tensor:
        return self.features[rows.to(self.features.device, non_blocking=True)]


class PixelSource:
    """A copy of prepared images, on the device where they leave it enough memory, cut and
    mirrored anew in each epoch.

    A cut is shifted by up to `shift` pixels over the mirrored edge. Each image is mirrored in
    every other epoch, half of them in the first (Jordan, arXiv:2404.00498): in two epochs a
    network sees both sides of all.

    Args:
        images: uint8 [N, C, S, S].
        preprocess: its mean and std are applied.
        shift: pixels.
        mirror: whether mirrored images are of the same class (letters are not).
        seed: of what is mirrored first.
    """

    def __init__(
        self,
        images: NDArray[np.uint8],
        preprocess: Preprocess,
        device: torch.device,
        *,
        shift: int = 0,
        mirror: bool = False,
        seed: int = 0,
    ) -> None:
        self.size, self.shift, self.device = images.shape[-1], shift, device
        whole = _laid_out(images, shift)
        self.place = _place(whole.nbytes, device)
        self.images = torch.from_numpy(whole).to(self.place)
        self.mean = torch.tensor(preprocess.mean, device=device) * 255
        self.std = torch.tensor(preprocess.std, device=device) * 255
        first = np.random.default_rng(seed).integers(0, 2, len(images))
        self.mirrored = torch.from_numpy(first).to(self.place) if mirror else None

    def __len__(self) -> int:
        return len(self.images)

    def batch(self, rows: Tensor, epoch: int, generator: torch.Generator) -> Tensor:
        shifts = torch.randint(0, 2 * self.shift + 1, (2, len(rows)), generator=generator)
        return self._cut(rows, shifts, epoch)

    def plain(self, rows: Tensor) -> Tensor:
        return self._cut(rows, torch.full((2, len(rows)), self.shift), None)

    def _cut(self, rows: Tensor, shifts: Tensor, epoch: int | None) -> Tensor:
        rows, shifts = (each.to(self.place, non_blocking=True) for each in (rows, shifts))
        across = torch.arange(self.size, device=self.place)
        down = shifts[0][:, None] + across
        right = shifts[1][:, None] + across
        if epoch is not None and self.mirrored is not None:
            turned = ((self.mirrored[rows] + epoch) % 2 == 1)[:, None]
            right = torch.where(turned, right.flip(1), right)
        cut = self.images[rows[:, None, None], down[:, :, None], right[:, None, :]]
        normal = (cut.to(self.device, non_blocking=True).float() - self.mean) / self.std
        return normal.permute(0, 3, 1, 2)


def _laid_out(images: NDArray[np.uint8], shift: int) -> NDArray[np.uint8]:
    """Images [N, C, S, S] as [N, S', S', C] with `shift` mirrored pixels around them.

    Pixels last: then a cut comes out in the layout that convolutions like. In blocks, since all
    of them may take most of the memory.
    """
    count, channels, size, _ = images.shape
    whole = np.empty((count, size + 2 * shift, size + 2 * shift, channels), np.uint8)
    margin = ((0, 0), (0, 0), (shift, shift), (shift, shift))
    for start in range(0, count, ROWS):
        padded = np.pad(images[start : start + ROWS], margin, mode="reflect")
        whole[start : start + ROWS] = padded.transpose(0, 2, 3, 1)
    return whole


def _place(size: int, device: torch.device) -> torch.device:
    """Where so many bytes of images are kept: beside a GPU whose memory the network needs."""
    if device.type != "cuda" or size < KEPT * torch.cuda.mem_get_info(device)[0]:
        return device
    return torch.device("cpu")
