"""`retrieval-db index` and `encode`: photos in, codes out, into the tables or into a file."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from retrieval_db.errors import ImageError
from retrieval_db.interchange import npz_writer, writing
from retrieval_db.photos import Shard, Sources
from retrieval_db.pipeline import EncodeReport, encode_batches

from . import choosing, labelling, reports
from .groups import Network, grouped
from .options import (
    DatabaseOption,
    Device,
    DeviceOption,
    EncoderOption,
    JsonOption,
    NameOption,
    PrecisionOption,
    opened,
)
from .screen import check_writable, note, progress_bar
from .settings import Settings

BitsOption = Annotated[int | None, typer.Option(help="Code length: a multiple of 4 up to 256.")]


@dataclass(frozen=True)
class Photos:
    """Which photos, and what is stored of them beside their codes."""

    sources: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="PHOTOS...",
            help="Folders, image files, tar shards; `-` is a list on standard input.",
            show_default=False,
        ),
    ] = None
    labels: Annotated[
        str | None,
        typer.Option(
            help="`folder`: a photo's label is its folder's name; or a CSV of path,label, whose "
            "relative paths start from its folder."
        ),
    ] = None
    root: Annotated[Path | None, typer.Option(help="Store paths relative to this folder.")] = None
    lists: Annotated[
        list[Path] | None,
        typer.Option("--list", metavar="FILE", help="A list of paths, one a line (`-`: stdin)."),
    ] = None
    shard: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only the I-th of N parts, so that N machines share a job."
        ),
    ] = None

    def images(self) -> Sources:
        return Sources(self.sources or [], self.lists or [])

    def part(self) -> Shard | None:
        return None if self.shard is None else Shard.parse(self.shard)


@grouped
def index(
    *,
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    network: Network,
    bits: BitsOption = None,
    name: NameOption = None,
    photos: Photos,
    prune: Annotated[bool, typer.Option(help="Delete rows whose files are gone.")] = False,
    features: Annotated[
        bool | None,
        typer.Option(help="Store features for the fine stage (default: where pgvector is)."),
    ] = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Readers (default: as many as processors).")
    ] = None,
    processes: Annotated[
        bool | None,
        typer.Option(
            "--processes/--threads", help="What reads (default: processes from 4 processors on)."
        ),
    ] = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show how busy each stage was.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encode photos and store their codes; only what is new or has changed."""
    images, part = photos.images(), photos.part()
    total = images.count()
    labels = labelling.of_files(photos.labels)
    with opened(database, writing=True) as db:
        settings = Settings(
            spec=encoder,
            network=network,
            bits=bits,
            name=name,
            device=device.value,
            precision=precision,
        )
        chosen = choosing.for_indexing(db, images, settings, say=note, shard=part)
        portion = f"part {part} of " if part else ""
        note(f"Indexing {portion}{total} image files with {chosen.name} ({chosen.bits} bits).")
        with progress_bar("Indexing", total // (part.of if part else 1)) as advance:
            report = db.index(
                images,
                encoder=chosen,
                root=photos.root,
                prune=prune,
                features=features,
                labels=labels,
                shard=part,
                workers=workers,
                processes=processes,
                progress=advance,
            )
    reports.index_report(report, as_json=as_json, prune=prune)
    if labels:
        labels.note_if_useless()
    if profile and not as_json:
        reports.profile(report.profile)
    if report.found and len(report.skipped) == report.found:
        raise ImageError("None of the files is a readable image.")


@grouped
def encode(
    *,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz")],
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    network: Network,
    bits: BitsOption = None,
    name: NameOption = None,
    photos: Photos,
    features: Annotated[bool, typer.Option(help="Write features, too.")] = True,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = None,
) -> None:
    """Encode photos into a file of codes; no database is needed, `load` reads it."""
    images, part = photos.images(), photos.part()
    total = images.count()
    labels = labelling.of_files(photos.labels)
    check_writable(out)
    settings = Settings(
        spec=encoder,
        network=network,
        bits=bits,
        name=name,
        device=device.value,
        precision=precision,
    )
    chosen = choosing.for_encoding(database, images, settings, say=note)
    report = EncodeReport(chosen.name)
    with (
        writing(out),
        npz_writer(out) as writer,
        progress_bar("Encoding", total // (part.of if part else 1)) as advance,
        closing(
            encode_batches(
                images,
                chosen,
                report,
                root=photos.root,
                progress=advance,
                labels=labels,
                shard=part,
            )
        ) as batches,
    ):
        for batch in batches:
            writer.write(batch if features else replace(batch, features=None))
    reports.skipped(report.skipped)
    if labels:
        labels.note_if_useless()
    note(f"{out}: {report.encoded} codes of {chosen.bits} bits ({chosen.name})")
