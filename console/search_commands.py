"""`retrieval-db search` and `duplicates`: answers out."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrieval_db.duplicates import default_radius
from retrieval_db.errors import UsageError

from . import answering, querying
from . import duplicates as near_duplicates
from .answering import Format
from .options import (
    DatabaseOption,
    Device,
    DeviceOption,
    StoredEncoderOption,
    WeightsOption,
    opened,
)
from .screen import check_writable, note


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


def search(
    photos_: Annotated[
        list[Path] | None, typer.Argument(metavar="[PHOTO|FOLDER]...", help="Photos to look for.")
    ] = None,
    database: DatabaseOption = None,
    encoder: StoredEncoderOption = None,
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
    pool: Annotated[
        int, typer.Option(min=1, help="Codes that the fine stage ranks; at least K.")
    ] = 200,
    metric: Annotated[Metric, typer.Option(help="Of the fine stage.")] = Metric.cosine,
    max_candidates: Annotated[int | None, typer.Option(min=1, help="A budget of rows.")] = None,
    max_ms: Annotated[float | None, typer.Option(min=0.001, help="A budget of time.")] = None,
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
    if sheet and sheet.suffix.lower() != ".png":
        raise UsageError(f"A contact sheet is a PNG: --sheet {sheet.with_suffix('.png')}")
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
            labels=label or None,
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


def duplicates(
    database: DatabaseOption = None,
    encoder: StoredEncoderOption = None,
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
            found, style, encoder=stored, radius=within, grouped=group, limit=limit
        )
        if html:
            near_duplicates.write_page(
                db, found, html, encoder=stored, radius=within, grouped=group, limit=limit
            )
