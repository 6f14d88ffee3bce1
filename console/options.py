"""Options that several commands share, and the database that they name."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrieval_db.client import Database, connect

from .screen import note


class Device(StrEnum):
    auto = "auto"
    cuda = "cuda"
    mps = "mps"
    cpu = "cpu"


class Precision(StrEnum):
    float32 = "float32"
    bf16 = "bf16"


class Stage(StrEnum):
    auto = "auto"
    coarse = "coarse"
    fine = "fine"


class Source(StrEnum):
    database = "database"
    memory = "memory"


class Metric(StrEnum):
    cosine = "cosine"
    l2 = "l2"


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
WeightsOption = Annotated[
    Path | None, typer.Option(help="The backbone's weights as a local file.", metavar="FILE")
]
DeviceOption = Annotated[Device, typer.Option(help="Where the network runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
BackboneOption = Annotated[
    str | None, typer.Option(help="A torchvision network (default: mobilenet_v2).")
]
InputSizeOption = Annotated[int | None, typer.Option(help="Pixels on a side, for --weights.")]
MeanOption = Annotated[
    str | None, typer.Option(help="Of the input, for --weights: one number, or three with commas.")
]
StdOption = Annotated[str | None, typer.Option(help="As --mean.")]
BitsOption = Annotated[int | None, typer.Option(help="Code length: a multiple of 4 up to 256.")]
NameOption = Annotated[str | None, typer.Option(help="Name of a new encoder.")]
LabelsOption = Annotated[
    str | None,
    typer.Option(help="`folder`: a photo's label is its folder's name; or a CSV of path,label."),
]
RootOption = Annotated[Path | None, typer.Option(help="Store paths relative to this folder.")]
PhotosArgument = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="PHOTOS...",
        help="Folders, image files, tar shards; `-` is a list on standard input.",
        show_default=False,
    ),
]
ListOption = Annotated[
    list[Path] | None,
    typer.Option("--list", metavar="FILE", help="A list of paths, one a line (`-`: stdin)."),
]
ShardOption = Annotated[
    str | None,
    typer.Option(metavar="I/N", help="Only the I-th of N parts, so that N machines share a job."),
]
PrecisionOption = Annotated[
    Precision | None,
    typer.Option(help="Of a new network (default: float32). bf16 gives other bits."),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Readers (default: as many as processors).")
]
ProcessesOption = Annotated[
    bool | None,
    typer.Option(
        "--processes/--threads", help="What reads (default: processes from 4 processors on)."
    ),
]


def opened(database: str | None, *, writing: bool = False) -> Database:
    """Connect; before a first write the target is shown."""
    db = connect(database, report=note)
    if writing:
        note(f"Database: {db.target}")
    return db
