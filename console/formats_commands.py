"""`retrieval-db load`, `export` and `legacy-view`: codes from anywhere, and to anywhere."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from retrieval_db import exporting, legacy, loading
from retrieval_db.errors import UsageError
from retrieval_db.exporting import Restriction
from retrieval_db.interchange import Labelled, Settings, Source, open_source

from . import labelling, querying, reports
from .options import DatabaseOption, JsonOption, opened
from .screen import check_writable, note, progress_bar


class FormatIn(StrEnum):
    npz = "npz"
    parquet = "parquet"
    csv = "csv"
    list = "list"
    pickle = "pickle"
    mysql = "mysql"


class FormatOut(StrEnum):
    npz = "npz"
    parquet = "parquet"
    csv = "csv"


EncoderName = Annotated[
    str | None, typer.Option("--encoder", "-e", help="Name of the codes' encoder.")
]


def load(
    file: Annotated[Path, typer.Argument(metavar="FILE")],
    database: DatabaseOption = None,
    encoder: EncoderName = None,
    format_: Annotated[
        FormatIn | None, typer.Option("--format", help="Default: seen from the content.")
    ] = None,
    bits: Annotated[
        int | None, typer.Option(help="Code length; of words 128 by default, of texts their own.")
    ] = None,
    paths: Annotated[
        Path | None,
        typer.Option(help="Paths of bare codes: a pickled list or dict, or one a line."),
    ] = None,
    labels: Annotated[
        str | None,
        typer.Option(
            help="`folder`: the name of the path's folder; or a CSV of path,label, with paths as "
            "they are stored."
        ),
    ] = None,
    table: Annotated[str, typer.Option(help="Of a MySQL dump.")] = legacy.VIEW,
    features: Annotated[bool, typer.Option(help="Store features, if the file has them.")] = True,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be loaded.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Bulk-load codes: npz, Parquet, CSV, hex or bit lists, old pickles, MySQL dumps.

    Paths that are there already are updated; an interrupted load is continued by the same command.
    """
    source: Source = open_source(
        file, Settings(bits=bits, paths=paths, table=table), format_ and format_.value
    )
    if labelled := labelling.of_stored(labels):
        source = Labelled(source, labelled)
    with progress_bar("Reading", None) as advance:
        found = loading.survey(source, progress=advance)
    if labelled:
        labelled.note_if_useless()
    if dry_run:
        reports.survey(file, source.kind, found, encoder=encoder, as_json=as_json)
        return
    for remark in found.remarks:
        note(remark)
    with opened(database, writing=True) as db, progress_bar("Loading", found.rows) as advance:
        report = db.load(
            source, encoder=encoder, features=features, surveyed=found, progress=advance
        )
    reports.load_report(report, as_json=as_json)


def export(
    file: Annotated[Path, typer.Argument(metavar="FILE.npz|.parquet|.csv")],
    database: DatabaseOption = None,
    encoder: EncoderName = None,
    format_: Annotated[
        FormatOut | None, typer.Option("--format", help="Default: by the file's suffix.")
    ] = None,
    label: Annotated[list[str] | None, typer.Option(help="Only images of these labels.")] = None,
    metadata: Annotated[
        str | None, typer.Option(help="Only images whose metadata contain this JSON.")
    ] = None,
    image_id: Annotated[
        list[int] | None, typer.Option("--id", help="Only what is near this stored image.")
    ] = None,
    path: Annotated[
        list[str] | None, typer.Option(help="Only what is near this stored image, by its path.")
    ] = None,
    code: Annotated[
        list[str] | None, typer.Option(help="Only what is near this code: hex, bits, four words.")
    ] = None,
    k: Annotated[int | None, typer.Option("-k", min=1, help="How many near ones.")] = None,
    radius: Annotated[int | None, typer.Option(min=0, help="Largest Hamming distance.")] = None,
    features: Annotated[bool, typer.Option(help="Write features, too.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Write an encoder's codes to a file that `load` reads: all, or those of a label or search."""
    kind = exporting.format_of(file, format_ and format_.value)
    containing = querying.metadata(metadata)
    wanted = querying.Wanted(
        ids=tuple(image_id or ()), paths=tuple(path or ()), codes=tuple(code or ())
    )
    if wanted == querying.Wanted() and not (k is None and radius is None):
        raise UsageError("-k and --radius go with --id, --path or --code.")
    check_writable(file)
    with opened(database) as db, progress_bar("Exporting", None) as advance:
        found = querying.codes_of(db, wanted, encoder)
        name = found[0][0].name if found else encoder
        only = Restriction(
            labels=label,
            metadata=containing,
            queries=[query for _, query in found],
            k=10 if k is None and radius is None else k,
            radius=radius,
        )
        report = db.export(
            file, encoder=name, format=kind, only=only, features=features, progress=advance
        )
    reports.export_report(report, as_json=as_json)


def legacy_view(
    encoder: Annotated[
        str | None, typer.Argument(metavar="[ENCODER]", help="Default: the only one.")
    ] = None,
    database: DatabaseOption = None,
    name: Annotated[str, typer.Option(help="Of the view.")] = legacy.VIEW,
    schema: Annotated[
        str | None, typer.Option(help="Where to (default: first of the search path).")
    ] = None,
    drop: Annotated[bool, typer.Option("--drop", help="Drop the view.")] = False,
) -> None:
    """Show an encoder as the old table img(id, path, code_1 … code_4), for the old queries."""
    with opened(database, writing=True) as db:
        if drop:
            db.drop_legacy_view(name=name, schema=schema)
            note(f"Dropped the view {name!r}.")
            return
        stored = db.create_legacy_view(encoder, name=name, schema=schema)
    note(f"The view {name!r} shows the images of {stored.name!r}.")
