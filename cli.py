"""The command line: parse, call, print.

Data goes to stdout, everything else to stderr. Exit code 0 is success, 1 an error, 2 wrong
usage, 130 an interruption.
"""

from __future__ import annotations

import io
import sys
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image as PillowImage

import retrieval_db
from retrieval_db import errors, layouts, migration
from retrieval_db.console import (
    answering,
    choosing,
    encoder_commands,
    evaluation_commands,
    formats_commands,
    querying,
    reports,
    server_commands,
    training_commands,
)
from retrieval_db.console import duplicates as near_duplicates
from retrieval_db.console.answering import Format
from retrieval_db.console.failures import Commands
from retrieval_db.console.options import (
    BackboneOption,
    BitsOption,
    DatabaseOption,
    Device,
    DeviceOption,
    EncoderOption,
    InputSizeOption,
    JsonOption,
    LabelsOption,
    ListOption,
    MeanOption,
    Metric,
    NameOption,
    PhotosArgument,
    PrecisionOption,
    ProcessesOption,
    RootOption,
    ShardOption,
    Source,
    Stage,
    StdOption,
    WeightsOption,
    WorkersOption,
    opened,
)
from retrieval_db.console.screen import check_writable, note, progress_bar
from retrieval_db.database import resolve
from retrieval_db.duplicates import default_radius
from retrieval_db.interchange import write_npz
from retrieval_db.photos import Shard, Sources, label_reader
from retrieval_db.pipeline import encode_all

app = typer.Typer(
    cls=Commands,
    help="Image retrieval inside PostgreSQL: binary hash codes, exact and certified search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(server_commands.commands, name="db")
app.add_typer(encoder_commands.commands, name="encoders")
app.command()(evaluation_commands.evaluate)
app.command()(evaluation_commands.thresholds)
app.command()(training_commands.train)


# Photos in


@app.command()
def index(
    sources: PhotosArgument = None,
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    input_size: InputSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    bits: BitsOption = None,
    name: NameOption = None,
    labels: LabelsOption = None,
    root: RootOption = None,
    lists: ListOption = None,
    shard: ShardOption = None,
    prune: Annotated[bool, typer.Option(help="Delete rows whose files are gone.")] = False,
    features: Annotated[
        bool | None,
        typer.Option(help="Store features for the fine stage (default: where pgvector is)."),
    ] = None,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = None,
    workers: WorkersOption = None,
    processes: ProcessesOption = None,
    profile: Annotated[
        bool, typer.Option("--profile", help="Show how busy each stage was.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Encode photos and store their codes; only what is new or has changed."""
    images = Sources(sources or [], lists or [])
    part = None if shard is None else Shard.parse(shard)
    total = images.count()
    labels_of = None if labels is None else label_reader(labels)
    with opened(database, writing=True) as db:
        settings = choosing.Settings(
            spec=encoder,
            backbone=backbone,
            weights=weights,
            input_size=input_size,
            mean=mean,
            std=std,
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
                root=root,
                prune=prune,
                features=features,
                labels=labels_of,
                shard=part,
                workers=workers,
                processes=processes,
                progress=advance,
            )
    reports.index_report(report, as_json=as_json, prune=prune)
    if profile and not as_json:
        reports.profile(report.profile)
    if report.found and len(report.skipped) == report.found:
        raise errors.ImageError("None of the files is a readable image.")


@app.command()
def encode(
    out: Annotated[Path, typer.Option("--output", "-o", metavar="FILE.npz")],
    sources: PhotosArgument = None,
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    input_size: InputSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    bits: BitsOption = None,
    name: NameOption = None,
    labels: LabelsOption = None,
    root: RootOption = None,
    lists: ListOption = None,
    shard: ShardOption = None,
    features: Annotated[bool, typer.Option(help="Write features, too.")] = True,
    device: DeviceOption = Device.auto,
    precision: PrecisionOption = None,
) -> None:
    """Encode photos into a file of codes; no database is needed, `load` reads it."""
    images = Sources(sources or [], lists or [])
    part = None if shard is None else Shard.parse(shard)
    total = images.count()
    labels_of = None if labels is None else label_reader(labels)
    check_writable(out)
    settings = choosing.Settings(
        spec=encoder,
        backbone=backbone,
        weights=weights,
        input_size=input_size,
        mean=mean,
        std=std,
        bits=bits,
        name=name,
        device=device.value,
        precision=precision,
    )
    chosen = choosing.for_encoding(database, images, settings, say=note)
    with progress_bar("Encoding", total // (part.of if part else 1)) as advance:
        codes, report = encode_all(
            images,
            chosen,
            root=root,
            progress=advance,
            labels=labels_of,
            shard=part,
        )
    write_npz(out, codes if features else replace(codes, features=None))
    reports.skipped(report.skipped)
    note(f"{out}: {len(codes)} codes of {codes.bits} bits ({chosen.name})")


app.command()(formats_commands.load)


# Answers out


@app.command()
def search(
    photos_: Annotated[
        list[Path] | None, typer.Argument(metavar="[PHOTO|FOLDER]...", help="Photos to look for.")
    ] = None,
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    list_file: Annotated[Path | None, typer.Option("--list", help="A file of paths.")] = None,
    codes_file: Annotated[Path | None, typer.Option("--codes", help="A file of codes.")] = None,
    image_id: Annotated[list[int] | None, typer.Option("--id", help="A stored image.")] = None,
    path: Annotated[list[str] | None, typer.Option(help="A stored image, by its path.")] = None,
    code: Annotated[list[str] | None, typer.Option(help="Hex, bits, or four words.")] = None,
    k: Annotated[int | None, typer.Option("-k", min=1, help="How many.")] = None,
    radius: Annotated[int | None, typer.Option(min=0, help="Largest Hamming distance.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only images of these labels.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Only images whose metadata contain this JSON.")
    ] = None,
    stage: Annotated[Stage, typer.Option(help="`auto` is fine where features exist.")] = Stage.auto,
    pool: Annotated[int, typer.Option(min=1, help="Codes that the fine stage ranks.")] = 200,
    metric: Annotated[Metric, typer.Option(help="Of the fine stage.")] = Metric.cosine,
    max_candidates: Annotated[int | None, typer.Option(help="A budget of rows.")] = None,
    max_ms: Annotated[float | None, typer.Option(help="A budget of time.")] = None,
    source: Annotated[
        Source, typer.Option(help="`memory` reads all codes once, then compares each of them.")
    ] = Source.database,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
    explain: Annotated[bool, typer.Option(help="Show how each answer was found.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON line a query.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV, a line a hit.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
    sheet: Annotated[
        Path | None, typer.Option(help="Write a contact sheet.", metavar="FILE.png")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--output", "-o", help="Write there, not to stdout.")
    ] = None,
) -> None:
    """Find the images nearest to photos, stored images or codes."""
    style = Format.chosen(json=as_json, jsonl=as_jsonl, csv=as_csv)
    containing = querying.metadata(metadata)
    for file in filter(None, (out, html, sheet)):
        check_writable(file)
    with opened(database) as db:
        wanted = querying.Wanted(
            photos=tuple(photos_ or ()),
            list_file=list_file,
            codes_file=codes_file,
            ids=tuple(image_id or ()),
            paths=tuple(path or ()),
            codes=tuple(code or ()),
        )
        answers = querying.answers(
            db,
            wanted,
            encoder=encoder,
            weights=weights,
            device=device.value,
            say=note,
            k=10 if k is None and radius is None else k,
            radius=radius,
            labels=label,
            metadata=containing,
            stage=stage.value,
            pool=pool,
            metric=metric.value,
            max_candidates=max_candidates,
            max_ms=max_ms,
            source=source.value,
        )
        answering.show(
            answers,
            style,
            out=out,
            html=html,
            sheet=sheet,
            explain=explain,
        )


@app.command()
def duplicates(
    database: DatabaseOption = None,
    encoder: EncoderOption = None,
    radius: Annotated[
        int | None,
        typer.Option(min=0, help="In bits (phash64: 6, phash256: 24, PDQ: 31)."),
    ] = None,
    group: Annotated[bool, typer.Option("--group", help="Groups instead of pairs.")] = False,
    since: Annotated[
        str | None,
        typer.Option(metavar="TIME|ID", help="Only with an image added since, or after that id."),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Show the nearest pairs, or largest groups, only.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON array.")] = False,
    as_jsonl: Annotated[bool, typer.Option("--jsonl", help="Print a JSON line each.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    html: Annotated[Path | None, typer.Option(help="Write a page.", metavar="FILE")] = None,
) -> None:
    """Find images that are nearly the same: all pairs within a radius, or their groups."""
    style = Format.chosen(json=as_json, jsonl=as_jsonl, csv=as_csv)
    added = near_duplicates.since(since)
    if html:
        check_writable(html)
    with opened(database) as db:
        stored = db.encoder(encoder)
        within = default_radius(stored) if radius is None else radius
        find = db.duplicate_groups if group else db.near_duplicates
        found = find(encoder=stored.name, radius=within, since=added)
    near_duplicates.show(
        found, style, encoder=stored, radius=within, grouped=group, limit=limit, html=html
    )


app.command()(formats_commands.export)


@app.command()
def demo(
    images: Annotated[
        Path | None, typer.Option(help="Your own photos, instead of digits.", metavar="DIR")
    ] = None,
    out: Annotated[Path, typer.Option("--output", "-o", help="Where the files go.")] = Path(
        "demo-output"
    ),
    database: DatabaseOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
) -> None:
    """See it all once: real images in, codes in PostgreSQL, ranked answers out."""
    from retrieval_db.demo import run

    with opened(database, writing=True) as db:
        run(db, out, images=images, weights=weights, say=print, device=device.value)


# The database


@app.command()
def migrate(
    database: DatabaseOption = None,
    to: Annotated[
        str, typer.Option(help="A revision, `head`, or `base` (drops everything).")
    ] = "head",
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Create the tables and functions, or bring them up to date."""
    if sql:
        print(migration.offline_sql(to), end="")
        return
    target = resolve(database, report=note)
    note(f"Database: {target}")
    reached = migration.move(target.url, to)
    fine = f"at {reached.features}" if reached.features else "absent (needs pgvector 0.7 or later)"
    note(f"Core at revision {reached.core or 'base'}; fine stage {fine}.")


@app.command()
def tune(
    encoder: Annotated[
        str | None, typer.Argument(metavar="[ENCODER]", help="Default: every encoder.")
    ] = None,
    database: DatabaseOption = None,
    widths: Annotated[
        str | None,
        typer.Option(help="Bits of each chunk, with commas; default: to fit the rows."),
    ] = None,
    covering: Annotated[
        bool | None,
        typer.Option(
            "--covering/--compact",
            help="Indexes that hold whole codes: fast, 67 bytes a row and chunk; or only where "
            "the rows are: about 13 bytes.",
        ),
    ] = None,
    sql: Annotated[
        bool, typer.Option("--sql", help="Print the SQL instead of running it.")
    ] = False,
) -> None:
    """Build bucket indexes that fit the rows, while searches go on; drop the old ones."""
    with opened(database, writing=True) as db:
        chosen = choosing.widths(widths)
        for stored in [db.encoder(encoder)] if encoder else db.encoders():
            if sql:
                reports.statements(
                    layouts.tune_statements(db.connection, stored.name, chosen, covering=covering)
                )
            else:
                reports.tuned(db.tune(stored.name, widths=chosen, covering=covering, report=note))


app.command()(formats_commands.legacy_view)


@app.command()
def info(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """Show where the database is, its versions, encoders, counts, sizes and indexes."""
    with opened(database) as db:
        reports.info(db.info(), as_json=as_json)


def version(wanted: bool) -> None:
    if wanted:
        print(f"retrieval-db {retrieval_db.__version__}")
        raise typer.Exit


@app.callback()
def options(
    _: Annotated[
        bool, typer.Option("--version", callback=version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line; see `console.failures` for what becomes of errors."""
    # Large photos are legitimate; beyond twice the limit Pillow refuses, and we list the file.
    warnings.simplefilter("ignore", PillowImage.DecompressionBombWarning)
    # What Pillow can read in spite of an oddity is read without a word.
    warnings.filterwarnings("ignore", module="PIL")
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    app()


if __name__ == "__main__":
    main()
