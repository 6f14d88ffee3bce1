"""The loop of gradient descent: a body, several heads on it, and a softmax beside them."""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from retrieval_db.errors import EncoderError, FormatError, UsageError

from ..devices.inference import resolve_device
from ..files import write_result
from ..hashing.heads import LinearHead
from ..hashing.recipes import Recipe
from .objectives import Objective, linear, objective
from .sources import Source

STATE = 1  # version of a state file
WARM_UP = 0.2
SETTLE_ON = 5000  # images
DIVERGED = "The loss became infinite: try a lower --lr, or float32 instead of bfloat16."


@dataclass(frozen=True)
class Epoch:
    """A line of the curves.

    Attributes:
        epoch: from 1.
        seconds: that it took.
        learning_rate: at its end.
        loss: the method's, mean over heads and images.
        accuracy: of the softmax beside the heads, on the training images as they were shown.
        validation: its accuracy on images held out; None where there are none.
    """

    epoch: int
    seconds: float
    learning_rate: float
    loss: float
    accuracy: float
    validation: float | None = None


@dataclass(frozen=True)
class Found:
    """What a training found.

    Attributes:
        heads: a head for each width, on the body's output.
        objectives: the loss of each, which may hold a classifier.
        softmax: on the body's output.
        curve: the epochs.
    """

    heads: dict[int, LinearHead]
    objectives: dict[int, Objective]
    softmax: LinearHead
    curve: list[Epoch]


class Model(nn.Module):
    """Everything that learns."""

    def __init__(self, body: nn.Module, dim: int, classes: int, recipe: Recipe) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleDict({str(bits): nn.Linear(dim, bits) for bits in recipe.bits})
        self.objectives = nn.ModuleDict(
            {str(bits): objective(recipe, bits, classes) for bits in recipe.bits}
        )
        self.norms = nn.ModuleDict(
            {
                key: nn.BatchNorm1d(int(key), affine=False)
                for key, each in self.objectives.items()
                if each.normalises
            }
        )
        self.softmax = nn.Linear(dim, classes)
        # What changes under the heads is brought to one scale for them; frozen features have it.
        learns = any(parameter.requires_grad for parameter in body.parameters())
        self.norm = nn.BatchNorm1d(dim, affine=False) if learns else None
        self.softmax_scale = dim**-0.5 if learns else 1.0

    def losses(
        self, x: Tensor, labels: Tensor, progress: float, mixed: torch.autocast
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The mean loss of the heads; the loss that is descended; the softmax's scores.

        Only the body is computed in mixed precision. Each head learns from its own loss, the
        body from their mean. The softmax sees the body's output, but the body nothing of the
        softmax.
        """
        with mixed:
            features = self.body(x)
        features = features.float()
        if self.norm is not None:
            features = self.norm(features)
        share = 1 / len(self.heads)
        shared = share * features + (1 - share) * features.detach()
        found = []
        for key, head in self.heads.items():
            u = head(shared)
            if key in self.norms:
                u = self.norms[key](u)
            found.append(self.objectives[key](u, labels, progress))
        scores = self.score(features.detach())
        total = torch.stack(found)
        descended = total.sum() + nn.functional.cross_entropy(scores, labels)
        return total.mean().detach(), descended, scores.detach()

    def head(self, bits: int) -> LinearHead:
        """What has been learnt for one width, on the body's output."""
        key = str(bits)
        after = cast(nn.BatchNorm1d, self.norms[key]) if key in self.norms else None
        return linear(cast(nn.Linear, self.heads[key]), before=self.norm, after=after)

    def score(self, features: Tensor) -> Tensor:
        """The softmax's scores [N, C] of normalised features; it learns by small steps."""
        scores: Tensor = self.softmax(features * self.softmax_scale)
        return scores

    def predict(self, x: Tensor) -> Tensor:
        """The softmax's scores of inputs, in evaluation."""
        features = self.body(x).float()
        return self.score(features if self.norm is None else self.norm(features))


def train(
    body: nn.Module,
    dim: int,
    source: Source,
    labels: NDArray[np.int64],
    classes: int,
    recipe: Recipe,
    *,
    device: str = "auto",
    held_out: tuple[Source, NDArray[np.int64]] | None = None,
    state: Path | None = None,
    resume: bool = False,
    identity: str = "",
    report: Callable[[Epoch], None] = lambda epoch: None,
    progress: Callable[[int], None] = lambda images: None,
) -> Found:
    """Train heads on a body, and the body with them where it has weights that want gradients.

    On a CPU the same arguments, number of threads and versions give the same weights. On a GPU
    they do not, because sums are added up in any order; the random numbers are the same, also
    after a resumption.

    Args:
        body: inputs of `source` → [N, D]; `nn.Identity()` for frozen features. Left in
            evaluation mode.
        dim: D.
        source: N inputs.
        labels: int64 [N], below `classes`.
        recipe: everything else.
        device: auto, cuda, mps or cpu.
        held_out: a source and its labels, to watch.
        state: where to keep the state after each epoch; to be deleted when the result is safe.
        resume: go on where `state` ends; from the beginning where it does not exist.
        identity: of the data and the body: a state of others is refused.
        report: is called after each epoch, and for those before a resumption.
        progress: is called with the number of images of each step.

    Raises:
        UsageError: `state` exists and `resume` is False, or it belongs to another training.
        FormatError: `state` is damaged, or cannot be written.
        EncoderError: the loss or a weight became infinite.
    """
    where = resolve_device(device)
    with torch.random.fork_rng(devices=[where] if where.type == "cuda" else []):
        torch.manual_seed(recipe.seed)
        model = Model(body, dim, classes, recipe).to(where)
        if where.type != "cpu" or any(parameter.ndim == 4 for parameter in body.parameters()):
            model.to(memory_format=torch.channels_last)
        run = _Run(model, source, torch.from_numpy(labels).to(where), recipe, where, progress)
        told = f"{recipe.to_json()} {identity}"
        curve = [] if state is None else _resumed(run, state, resume, told)
        for epoch in curve:
            report(epoch)
        for number in range(len(curve), recipe.epochs):
            curve.append(run.epoch(number, held_out))
            if state is not None:
                _save(run, state, curve, told)
            report(curve[-1])
        run.settle()
        run.check_finite()
    model.eval()
    return Found(
        heads={bits: model.head(bits) for bits in recipe.bits},
        objectives={bits: cast(Objective, model.objectives[str(bits)]) for bits in recipe.bits},
        softmax=linear(model.softmax, before=model.norm, scale=model.softmax_scale),
        curve=curve,
    )


def shown(images: int, recipe: Recipe) -> int:
    """How many images all epochs show together."""
    return recipe.epochs * min(images, _batches(images, recipe) * recipe.batch_size)


def _batches(images: int, recipe: Recipe) -> int:
    """Whole ones: a rest may be too small for a normalisation, or for pairs of images."""
    return max(1, images // recipe.batch_size)


class _Run:
    """A training under way."""

    def __init__(
        self,
        model: Model,
        source: Source,
        labels: Tensor,
        recipe: Recipe,
        device: torch.device,
        progress: Callable[[int], None],
    ) -> None:
        self.model, self.source, self.labels = model, source, labels
        self.recipe, self.device, self.progress = recipe, device, progress
        self.generator = torch.Generator().manual_seed(recipe.seed)
        self.optimizer = _optimizer(model, recipe)
        self.batches = _batches(len(source), recipe)

    def epoch(self, number: int, held_out: tuple[Source, NDArray[np.int64]] | None) -> Epoch:
        started = time.perf_counter()
        self.model.train()
        order = torch.randperm(len(self.source), generator=self.generator)
        total = torch.zeros(2, device=self.device)
        steps = self.batches * self.recipe.epochs
        rate, seen = 0.0, 0
        for index in range(self.batches):
            rows = order[index * self.recipe.batch_size :][: self.recipe.batch_size]
            done = (number * self.batches + index + 0.5) / steps
            rate = self._set_rate(done)
            x = self.source.batch(rows, number, self.generator)
            labels = self.labels[rows.to(self.device, non_blocking=True)]
            loss, descended, scores = self.model.losses(x, labels, done, self._mixed())
            self.optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(descended)
            self.optimizer.step()
            hits = (scores.argmax(1) == labels).sum()
            total += torch.stack([loss * len(rows), hits.to(loss.dtype)])
            seen += len(rows)
            self.progress(len(rows))
        loss_sum, hit_sum = total.tolist()
        if not np.isfinite(loss_sum):
            raise EncoderError(DIVERGED)
        # The last step is in no loss.
        self.check_finite()
        return Epoch(
            epoch=number + 1,
            seconds=round(time.perf_counter() - started, 3),
            learning_rate=rate,
            loss=loss_sum / seen,
            accuracy=hit_sum / seen,
            validation=None if held_out is None else self._accuracy(*held_out),
        )

    def check_finite(self) -> None:
        """Refuse weights and moments that are no numbers any more.

        Raises:
            EncoderError: some are not.
        """
        tensors = self.model.state_dict().values()
        # One answer of all: a GPU is waited for.
        if not torch.stack([tensor.isfinite().all() for tensor in tensors]).all():
            raise EncoderError(DIVERGED)

    def settle(self) -> None:
        """Give the normalisations the moments that belong to the last weights.

        In training they follow the weights slowly, too slowly for a short one.
        """
        kinds = (nn.BatchNorm1d, nn.BatchNorm2d)
        norms = [module for module in self.model.modules() if isinstance(module, kinds)]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None  # the mean over all batches
        self.model.train()
        count = min(SETTLE_ON, len(self.source))
        spread = torch.linspace(0, len(self.source) - 1, count).long()
        # Dealt out in turn, since images of a class may stand together.
        parts = max(1, count // self.recipe.batch_size)
        with torch.no_grad():
            for first in range(parts):
                x = self.source.plain(spread[first::parts])
                zeros = torch.zeros(len(x), dtype=torch.long, device=self.device)
                self.model.losses(x, zeros, 1.0, self._mixed())
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.momentum = momentum

    def _set_rate(self, done: float) -> float:
        """Up linearly over the first fifth, then down to 0."""
        factor = min(done / WARM_UP, (1 - done) / (1 - WARM_UP))
        for group in self.optimizer.param_groups:
            group["lr"] = self.recipe.learning_rate * group["times"] * factor
        return self.recipe.learning_rate * factor

    def _mixed(self) -> torch.autocast:
        mixed = self.recipe.precision == "bfloat16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=mixed)

    def _accuracy(self, source: Source, labels: NDArray[np.int64]) -> float:
        self.model.eval()
        hits = 0
        with torch.inference_mode():
            for rows in torch.split(torch.arange(len(source)), 500):
                scores = self.model.predict(source.plain(rows))
                hits += int((scores.argmax(1).cpu() == torch.from_numpy(labels)[rows]).sum())
        return hits / len(source)


def _optimizer(model: Model, recipe: Recipe) -> torch.optim.Optimizer:
    """Groups: of the body or not, with weight decay or not."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            key = (name.startswith("body."), parameter.ndim > 1)
            groups.setdefault(key, []).append(parameter)
    described: list[dict[str, Any]] = [
        {
            "params": parameters,
            "weight_decay": recipe.weight_decay if decays else 0.0,
            "times": 1.0 if in_body else recipe.head_rate,
        }
        for (in_body, decays), parameters in groups.items()
    ]
    if recipe.optimizer == "sgd":
        return torch.optim.SGD(described, lr=recipe.learning_rate, momentum=0.9, nesterov=True)
    return torch.optim.AdamW(described, lr=recipe.learning_rate)


def _save(run: _Run, path: Path, curve: Sequence[Epoch], told: str) -> None:
    state = {
        "version": STATE,
        "training": told,
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "generator": run.generator.get_state(),
        "random": torch.random.get_rng_state(),
        # What networks such as those with dropout draw on a GPU.
        "cuda": torch.cuda.get_rng_state(run.device) if run.device.type == "cuda" else None,
        "curve": [asdict(epoch) for epoch in curve],
    }
    # torch would hide why a file cannot be written.
    content = io.BytesIO()
    torch.save(state, content)
    write_result(path, content.getvalue())


def _resumed(run: _Run, path: Path, resume: bool, told: str) -> list[Epoch]:
    """Load a state into a run; the epochs that are done."""
    if not path.exists():
        return []
    if not resume:
        raise UsageError(
            f"{path} is the state of a training that was interrupted: --resume goes on with it; "
            "delete it to begin anew."
        )
    try:
        content = io.BytesIO(path.read_bytes())
        # The optimizer's counts of steps stay there: on a GPU each would be waited for.
        state = torch.load(content, map_location="cpu", weights_only=True)
        if state["version"] != STATE:
            raise FormatError(f"{path} is of another version: delete it and begin anew.")
        if state["training"] != told:
            raise UsageError(
                f"{path} is the state of a training with other settings or images: give the "
                "same ones, or delete it to begin anew."
            )
        run.model.load_state_dict(state["model"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.generator.set_state(state["generator"])
        torch.random.set_rng_state(state["random"])
        if run.device.type == "cuda" and state.get("cuda") is not None:
            torch.cuda.set_rng_state(state["cuda"], run.device)
        return [Epoch(**epoch) for epoch in state["curve"]]
    except (FormatError, UsageError):
        raise
    except Exception as error:  # torch.load raises what its unpickler happens to
        raise FormatError(f"{path} is damaged: delete it and begin anew.") from error
