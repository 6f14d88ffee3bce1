"""Options that several commands share, and the database that they name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrieval_db.client import Database, connect

from .screen import note

# Seeds that NumPy, torch and PostgreSQL all take.
LAST_SEED = 2**32 - 1


class Device(StrEnum):
    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class Decoder(StrEnum):
    pillow = "pillow"
    torchcodec = "torchcodec"
    nvjpeg = "nvjpeg"


class Precision(StrEnum):
    float32 = "float32"
    bfloat16 = "bfloat16"
    bf16 = "bf16"

    @staticmethod
    def unabbreviated(given: Precision | None) -> Precision | None:
        return Precision.bfloat16 if given is Precision.bf16 else given


DatabaseOption = Annotated[
    str | None,
    typer.Option(
        "--database",
        "-d",
        metavar="URL",
        help="PostgreSQL to use; else RETRIEVAL_DB_URL, DATABASE_URL, the embedded server.",
    ),
]
EncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder",
        "-e",
        help="A stored name, a FILE.safetensors[:NAME], or a method: itq128, lsh64, phash64, "
        "phash256.",
    ),
]
StoredEncoderOption = Annotated[
    str | None,
    typer.Option(
        "--encoder", "-e", metavar="NAME", help="A stored encoder (default: the only one)."
    ),
]
WeightsOption = Annotated[
    Path | None, typer.Option(help="The backbone's weights as a local file.", metavar="FILE")
]
DeviceOption = Annotated[Device, typer.Option(help="Where the network runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
InputSizeOption = Annotated[int | None, typer.Option(help="Pixels on a side, for --weights.")]
MeanOption = Annotated[
    str | None, typer.Option(help="Of the input, for --weights: one number, or three with commas.")
]
StdOption = Annotated[str | None, typer.Option(help="As --mean.")]
FlipOption = Annotated[
    bool,
    typer.Option("--flip", help="Mirrored copies get the same code; twice the work."),
]
DecoderOption = Annotated[
    Decoder | None,
    typer.Option(
        help="What decodes and resizes: pillow; torchcodec, quicker; nvjpeg, on a CUDA GPU."
    ),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(
        callback=Precision.unabbreviated,
        help="Of a new network (default: float32). bfloat16, or bf16, gives other bits.",
    ),
]
NameOption = Annotated[str | None, typer.Option(help="Name of a new encoder.")]


def opened(database: str | None, *, writing: bool = False) -> Database:
    """Connect; before a first write the target is shown."""
    db = connect(database, report=note)
    if writing:
        note(f"Database: {db.target}")
    return db
