"""What the user said of a training, read and checked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from retrieval_db.errors import FormatError, UsageError

from .settings import check_encoder_file

if TYPE_CHECKING:
    from retrieval_db.encoder.checkpoint import Content
    from retrieval_db.encoder.datasets import Dataset
    from retrieval_db.encoder.hashing.methods import Method
    from retrieval_db.encoder.hashing.recipes import Recipe


def need_torch() -> None:
    """Stop here, with the cure, where the extra `encoder` is not installed.

    Raises:
        MissingExtra: it is not.
    """
    from retrieval_db.encoder import require_network

    require_network()


@dataclass(frozen=True)
class Files:
    """What a training writes: the encoder, and beside it the state to resume from and curves."""

    encoder: Path

    @property
    def state(self) -> Path:
        return self.encoder.with_suffix(".state")

    @property
    def table(self) -> Path:
        return self.encoder.with_suffix(".epochs.csv")

    @property
    def plot(self) -> Path:
        return self.encoder.with_suffix(".epochs.png")

    def check(self, data: str) -> None:
        """See before the work that it is an encoder's file, and that no list is written over.

        Raises:
            UsageError: it is not, or one is.
        """
        check_encoder_file(self.encoder)
        from retrieval_db.encoder.datasets import lists

        read = {file.resolve() for file in lists.files_of(data).values()}
        for file in (self.encoder, self.state, self.table, self.plot):
            if file.resolve() in read:
                raise UsageError(
                    f"{file} holds the data, and would be written over: choose another -o."
                )


@dataclass(frozen=True)
class Written:
    """An encoder of a file, for people."""

    name: str
    bits: int
    images: int
    fingerprint: str


def finished(files: Files, recipe: Recipe) -> list[Written]:
    """The encoders that this training has left, if it has come to its end; else none.

    Its network's weights need not be here.

    Raises:
        UsageError: the file there is of another training.
        FormatError: it is damaged.
    """
    from retrieval_db.encoder import checkpoint

    if files.state.exists() or not files.encoder.exists():
        return []
    made = [] if not checkpoint.is_encoder(files.encoder) else _contents(files.encoder)
    bits = sorted(config.get("bits", 0) for _, config, _ in made)
    settings = {(config.get("method"), config.get("seed")) for _, config, _ in made}
    if bits != sorted(recipe.bits) or settings != {(recipe.method, recipe.seed)}:
        raise UsageError(
            f"There is no state to resume from, and {files.encoder} is of another training: "
            "choose another -o, or leave --resume out to write over it."
        )
    return [
        Written(
            name,
            config["bits"],
            config["head"]["fitted_on"],
            checkpoint.fingerprint(
                config,
                {key: value for key, value in tensors.items() if key != checkpoint.TRAINING_KEY},
            ),
        )
        for name, config, tensors in made
    ]


def _contents(file: Path) -> list[Content]:
    from retrieval_db.encoder import checkpoint

    try:
        return checkpoint.unpack_all(file.read_bytes())
    except FormatError as error:
        raise FormatError(f"{file}: {error}") from error


def method(name: str) -> Method:
    """The method of that name.

    Raises:
        UsageError: there is none, or the name has a code length in it.
    """
    from retrieval_db.encoder.hashing.methods import METHODS, parse_spec

    if name not in METHODS:
        found, _ = parse_spec(name)
        raise UsageError(f"--method is a name without bits: --method {found.name} --bits …")
    return METHODS[name]


def lengths(text: str) -> tuple[int, ...]:
    """Code lengths, with commas between.

    Raises:
        UsageError: something else.
    """
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError as error:
        raise UsageError(f"--bits is a list such as 12,32,48; not {text!r}.") from error


def assignments(given: Sequence[str]) -> dict[str, float]:
    """NAME=NUMBER, several times.

    Raises:
        UsageError: something else, or a name twice.
    """
    found: dict[str, float] = {}
    for text in given:
        name, _, value = (part.strip() for part in text.partition("="))
        if name in found:
            raise UsageError(f"--set gives {name} twice.")
        try:
            found[name] = float(value)
        except ValueError as error:
            raise UsageError(f"--set takes NAME=NUMBER such as margin=20; not {text!r}.") from error
    return found


def rows_to_train(
    dataset: Dataset, protocol: str | None, validation: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The images to train on, and those that are held out, as indices.

    Those of the protocol; without one the training split, or all images where there is none.

    Raises:
        UsageError: the protocol does not fit, or too few images to hold some out.
    """
    from retrieval_db.encoder import datasets

    if protocol is not None:
        split = datasets.protocol(dataset, protocol, seed)
    else:
        rows = dataset.splits.get("train", np.arange(len(dataset), dtype=np.int64))
        split = datasets.Split("train", rows, rows, rows, None, "relevant", "")
    if not validation:
        return split.train, np.empty(0, dtype=np.int64)
    parted = datasets.validation(dataset, split, seed, validation)
    return parted.train, parted.query


def encoder_name(out: Path, method: str, bits: Sequence[int]) -> str:
    """What an encoder is called where its user does not say: as its file, or its method."""
    return out.stem if len(bits) > 1 else f"{method}{bits[0]}"
