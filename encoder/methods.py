"""The methods that make codes, by name. A new method is one entry in `METHODS`."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from retrieval_db.errors import UsageError

from .heads import Float32, LinearHead, fit_itq, fit_lsh, fit_pca_rr

MIN_BITS, MAX_BITS = 4, 256
FEW_IMAGES = 300  # a head fitted on fewer is worth fitting again later


@dataclass(frozen=True)
class Method:
    """One way to make codes.

    Attributes:
        name: as in a spec such as `itq128`.
        summary: one line for people.
        bits: L if none is asked for.
        fit: (features [N, D] float32, bits, seed) → head; None if there is nothing to fit,
            or if the whole network is trained.
        fallback: the method that takes over where L + 1 images are not there.
    """

    name: str
    summary: str
    bits: int
    fit: Callable[[Float32, int, int], LinearHead] | None = None
    fallback: str | None = None


METHODS: dict[str, Method] = {
    method.name: method
    for method in (
        Method("phash", "perceptual hash: finds copies; needs no network", 64),
        Method("lsh", "random hyperplanes on features", 128, fit_lsh),
        Method("pca_rr", "PCA and a random rotation of features", 128, fit_pca_rr, "lsh"),
        Method("itq", "iterative quantisation of features (the default)", 128, fit_itq, "lsh"),
        Method("latent_ce", "sigmoid latent layer and softmax, trained on labels", 48),
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
        raise UsageError(f"Unknown method {spec!r}. The methods are {_names()}.")
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
