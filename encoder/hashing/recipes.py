"""How a training goes: everything that its result depends on but the data."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from retrieval_db.errors import UsageError

from .methods import METHODS, Method, parse_spec

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class Recipe:
    """The settings of one training.

    Attributes:
        method: a name in `METHODS`.
        bits: the widths of the heads, trained together.
        epochs: passes over the images.
        learning_rate: at its highest: it rises over the first fifth and falls to 0.
        batch_size: images a step.
        weight_decay: of weights; not of biases and normalisations.
        optimizer: sgd (Nesterov, momentum 0.9) or adamw.
        head_rate: how many times faster the heads learn than the backbone.
        shift: pixels by which cuts move.
        mirror: whether images are mirrored.
        seed: of first weights, order, cuts and targets.
        options: of the method; see `Method.options`.
        precision: float32, or bfloat16: mixed precision, the weights stay float32.
    """

    method: str = "orthohash"
    bits: tuple[int, ...] = (48,)
    epochs: int = 15
    learning_rate: float = 2e-3
    batch_size: int = 256
    weight_decay: float = 1e-4
    optimizer: str = "adamw"
    head_rate: float = 1.0
    shift: int = 0
    mirror: bool = False
    seed: int = 0
    options: Mapping[str, float] = field(default_factory=dict)
    precision: str = "float32"

    def __post_init__(self) -> None:
        method = METHODS.get(self.method)
        if method is None:
            found, _ = parse_spec(self.method)
            raise UsageError(f"A method is named without bits: {found.name}, not {self.method}.")
        if method.name == "phash":
            raise UsageError("phash64 and phash256 are ready as they are: there is nothing to fit.")
        if not self.bits:
            raise UsageError("Name at least one code length.")
        if len(set(self.bits)) < len(self.bits):
            raise UsageError(f"A code length is named twice: {', '.join(map(str, self.bits))}.")
        for bits in self.bits:
            parse_spec(method.name, bits)
            method.settings(bits, self.options)
        nested = self.options.get("nested", 0)
        if nested and nested >= max(self.bits):
            raise UsageError(
                f"A code of {max(self.bits)} bits has no prefix of nested={nested:g}: choose a "
                "shorter prefix, or more bits."
            )
        if self.epochs < 1:
            raise UsageError("epochs must be more than 0.")
        if not 0 < self.learning_rate < math.inf:
            raise UsageError(
                f"learning rate must be a number more than 0, not {self.learning_rate:g}."
            )
        if self.batch_size < 2:
            raise UsageError("A batch has at least 2 images: they are normalised together.")
        if self.precision not in PRECISIONS:
            raise UsageError(f"Unknown precision {self.precision!r}: {', '.join(PRECISIONS)}.")
        if self.optimizer not in ("sgd", "adamw"):
            raise UsageError(f"Unknown optimizer {self.optimizer!r}: sgd, adamw.")

    @property
    def kind(self) -> Method:
        return METHODS[self.method]

    def settings(self, bits: int) -> dict[str, float]:
        """The method's options for one head."""
        return self.kind.settings(bits, self.options)

    def to_json(self) -> str:
        """One text for equal recipes."""
        return json.dumps(asdict(self), sort_keys=True)

    def changed(self, **given: Any) -> Recipe:
        """A copy in which every setting that is not None is changed."""
        return replace(self, **{key: value for key, value in given.items() if value is not None})


# Chosen once for each way of training; none is tuned for a method.
FROZEN = Recipe()
# A network from nothing, on images in memory.
FROM_NOTHING = Recipe(
    epochs=20,
    learning_rate=0.1,
    batch_size=128,
    weight_decay=5e-4,
    optimizer="sgd",
    shift=2,
    mirror=True,
)
# A pretrained network, all of it.
FINE_TUNING = Recipe(
    epochs=10, learning_rate=1e-4, batch_size=64, weight_decay=1e-2, head_rate=10, mirror=True
)
