"""The methods that make codes, by name. A new method is one entry in `METHODS`."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import UsageError

from ..names import SHIPPED
from .heads import Float32, LinearHead, fit_itq, fit_lsh, fit_nested_itq, fit_pca_rr
from .kernels import KernelHead
from .supervised import fit_dplm, fit_itq_cca, fit_ksh

MIN_BITS, MAX_BITS = 4, 256
FEW_IMAGES = 300  # a head fitted on fewer is worth fitting again later

FitLabels = Callable[
    [Float32, NDArray[np.int64], int, int, Mapping[str, float]], LinearHead | KernelHead
]


@dataclass(frozen=True)
class Option:
    """A number that a method can be given (`train --set NAME=NUMBER`).

    Attributes:
        help: what it means, in a few words.
        default: its value for L bits.
        least, most: between which it is.
        whole: whether it is a whole number.
    """

    help: str
    default: Callable[[int], float]
    least: float = 0.0
    most: float = 1e6
    whole: bool = False

    @property
    def range(self) -> str:
        """For people: what it may be."""
        return f"{'whole, ' if self.whole else ''}{self.least:g} to {self.most:,.0f}"

    def takes(self, value: float) -> bool:
        """Whether a value is in its range; NaN is in none."""
        return self.least <= value <= self.most and not (self.whole and value % 1)


@dataclass(frozen=True)
class Method:
    """One way to make codes.

    Attributes:
        name: as in a spec such as `itq128`.
        summary: one line for people.
        source: the paper.
        bits: L if none is asked for.
        fit: (features [N, D] float32, bits, seed) → head, without labels.
        fit_labels: (features, classes int64 [N], bits, seed, options) → head.
        trained: by gradient descent, with its loss in `objectives`.
        options: what can be set.
        fallback: the method that takes over where L + 1 images are not there.
    """

    name: str
    summary: str
    source: str
    bits: int
    fit: Callable[[Float32, int, int], LinearHead] | None = None
    fit_labels: FitLabels | None = None
    trained: bool = False
    options: Mapping[str, Option] = field(default_factory=dict)
    fallback: str | None = None

    @property
    def supervised(self) -> bool:
        """Whether it learns from labels."""
        return self.trained or self.fit_labels is not None

    def settings(self, bits: int, given: Mapping[str, float] | None = None) -> dict[str, float]:
        """Every option's value for L bits: the given one, or its default.

        Raises:
            UsageError: it has no option of that name, or not of that value.
        """
        given = given or {}
        if unknown := sorted(set(given) - set(self.options)):
            known = ", ".join(self.options) or "none"
            raise UsageError(f"{self.name} has no option {unknown[0]!r}; those it has: {known}.")
        defaults = {name: option.default(bits) for name, option in self.options.items()}
        found = {**defaults, **{name: float(value) for name, value in given.items()}}
        nested = found.get("nested", 0.0)
        if nested and math.isfinite(nested) and (nested < MIN_BITS or nested % 4):
            raise UsageError(
                f"nested={nested:g} is no code length: the shortest prefix has 4 bits or more, "
                "a multiple of 4 (try nested=16)."
            )
        for name, value in found.items():
            if not self.options[name].takes(value):
                raise UsageError(
                    f"{self.name}: {name}={value:g} is out of range ({self.options[name].range})."
                )
        return found


def _always(value: float) -> Callable[[int], float]:
    return lambda bits: value


# Below it what is divided by, or multiplied, is as good as nothing.
LITTLE = 1e-3

_NESTED = Option(
    "shortest prefix that is a code by itself; 0: only the whole is",
    _always(0),
    most=MAX_BITS,
    whole=True,
)
_ANCHORS = Option("images that others are compared with", _always(1000), least=2, whole=True)

METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("phash", "perceptual hash: finds copies; needs no network", "Zauner 2010", 64),
        Method("lsh", "random hyperplanes on features", "Charikar, STOC 2002", 128, fit_lsh),
        Method(
            "pca_rr",
            "PCA and a random rotation of features",
            "Gong & Lazebnik, CVPR 2011",
            128,
            fit_pca_rr,
            fallback="lsh",
        ),
        Method(
            "itq",
            "iterative quantisation of features (the default for photos without labels)",
            "Gong & Lazebnik, CVPR 2011",
            128,
            fit_itq,
            fallback="lsh",
        ),
        Method(
            "nested_itq",
            "ITQ codes of 16, 32, 64, … bits side by side: each such prefix is a code by itself",
            "ours, after Kusupati et al., NeurIPS 2022",
            128,
            fit_nested_itq,
            fallback="lsh",
        ),
        Method(
            "itq_cca",
            "CCA of features and labels, then the rotation of ITQ",
            "Gong et al., PAMI 2013",
            48,
            fit_labels=fit_itq_cca,
            options={
                "regularisation": Option(
                    "ridge, as a share of the variance", _always(1e-2), least=1e-6
                )
            },
        ),
        Method(
            "ksh",
            "bit by bit on the residue of pairwise labels, with a kernel",
            "Liu et al., CVPR 2012",
            48,
            fit_labels=fit_ksh,
            options={
                "anchors": replace(_ANCHORS, default=_always(300)),
                "samples": Option(
                    "labelled images that are compared in pairs", _always(2000), least=2, whole=True
                ),
            },
        ),
        Method(
            "dplm",
            "discrete codes by proximal steps, then kernel regression",
            "Shen et al., TIP 2016",
            128,
            fit_labels=fit_dplm,
            options={
                "anchors": _ANCHORS,
                "delta": Option("ridge of the read-out of labels", _always(1.0), least=LITTLE),
                "mu": Option("weight of uncorrelated bits", _always(0.01)),
                "rho": Option("weight of balanced bits", _always(0.01)),
            },
        ),
        Method(
            "latent_ce",
            "sigmoid latent layer and softmax",
            "Lin et al., CVPR workshops 2015",
            48,
            trained=True,
            options={"nested": _NESTED},
        ),
        Method(
            "triplet",
            "triplet ranking loss on sigmoid outputs",
            "Lai et al., CVPR 2015",
            64,
            trained=True,
            options={
                "margin": Option("by how much another class is farther", lambda bits: bits / 4 + 4),
                "nested": _NESTED,
            },
        ),
        Method(
            "hashnet",
            "weighted likelihood of pairs, tanh that becomes the sign",
            "Cao et al., ICCV 2017",
            48,
            trained=True,
            options={
                "alpha": Option(
                    "slope of the sigmoid of inner products", lambda bits: 10 / bits, LITTLE
                ),
                "growth": Option("β ends at √(1 + growth)", _always(50.0)),
                "nested": _NESTED,
            },
        ),
        Method(
            "dch",
            "Cauchy cross-entropy of pairs and Cauchy quantisation",
            "Cao et al., CVPR 2018",
            48,
            trained=True,
            options={
                "gamma": Option(
                    "γ of the Cauchy distribution, in bits", lambda bits: bits / 2.4, LITTLE
                ),
                "quantisation": Option("λ of the quantisation loss", _always(0.1)),
                "nested": _NESTED,
            },
        ),
        Method(
            "greedyhash",
            "softmax on the code itself, the gradient passing the sign",
            "Su et al., NeurIPS 2018",
            48,
            trained=True,
            options={
                "quantisation": Option("λ of the cubic penalty", _always(0.1)),
                "nested": _NESTED,
            },
        ),
        Method(
            "csq",
            "each bit is trained towards its class's hash centre",
            "Yuan et al., CVPR 2020",
            64,
            trained=True,
            options={
                "quantisation": Option("λ of the penalty", _always(1e-4)),
                "nested": _NESTED,
            },
        ),
        Method(
            "orthohash",
            "cosine to orthogonal class targets, with a margin (the default with labels)",
            "Hoe et al., NeurIPS 2021",
            64,
            trained=True,
            options={
                "scale": Option("s, by which cosines are multiplied", _always(8.0), least=LITTLE),
                "margin": Option("m, taken off the cosine of the true class", _always(0.2)),
                "nested": _NESTED,
            },
        ),
    )
}


def parse_spec(spec: str, bits: int | None = None) -> tuple[Method, int]:
    """Read a method with or without its code length, such as `itq128`, `lsh` or `phash256`.

    Args:
        spec: the method's name, then L.
        bits: L, if the spec does not say.

    Raises:
        UsageError: no such method, or no such code length.
    """
    match = re.fullmatch(r"([a-z_]+?)(\d*)", spec.strip().lower())
    method = METHODS.get(match[1]) if match else None
    if match is None or method is None:
        ready = f" Ready-made encoders are {', '.join(SHIPPED)}." if SHIPPED else ""
        raise UsageError(f"Unknown method {spec!r}. The methods are {_names()}.{ready}")
    if match[2] and bits is not None and int(match[2]) != bits:
        raise UsageError(f"{spec!r} has {match[2]} bits, but {bits} were asked for.")
    length = int(match[2]) if match[2] else bits if bits is not None else method.bits
    if not MIN_BITS <= length <= MAX_BITS or length % 4:
        raise UsageError(
            f"A code has 4 to 256 bits, a multiple of 4; {length} is not possible "
            f"(try {method.name}{method.bits})."
        )
    return method, length


def _names() -> str:
    return ", ".join(f"{method.name} (as {name}{method.bits})" for name, method in METHODS.items())
