"""`retrieval-db encoders …`: what made the codes."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from retrieval_db.errors import UsageError

from . import evaluation_commands, fitting, opening, reports
from .options import (
    DatabaseOption,
    Device,
    DeviceOption,
    JsonOption,
    NameOption,
    WeightsOption,
    opened,
)
from .screen import note, progress_bar
from .settings import check_encoder_file

commands = typer.Typer(help="The stored encoders.", no_args_is_help=True)


@commands.command("list")
def listed(database: DatabaseOption = None, as_json: JsonOption = False) -> None:
    """List the stored encoders."""
    with opened(database) as db:
        reports.encoders(db.info().encoders, as_json=as_json)


@commands.command("show")
def show(name: str, database: DatabaseOption = None) -> None:
    """Show one encoder with its config, as JSON."""
    with opened(database) as db:
        reports.encoder(db.encoder(name))


commands.command("health")(evaluation_commands.health)


@commands.command("add")
def add(
    file: Annotated[str, typer.Argument(metavar="ENCODER.safetensors[:NAME]")],
    database: DatabaseOption = None,
    weights: WeightsOption = None,
    name: NameOption = None,
) -> None:
    """Store the encoders of a file: all of them, or the one that is named."""
    found = opening.all_from_file(file, weights=weights)
    if name is not None:
        if len(found) > 1:
            raise UsageError(
                f"{file} holds {len(found)} encoders: --name is for one, as {file}:{found[0].name}."
            )
        found = [opening.from_file(file, name, weights=weights)]
    with opened(database, writing=True) as db:
        for one in found:
            added = db.add_encoder(one)
            note(f"Stored the encoder {added.name!r}: {added.bits} bits, {added.fingerprint[:12]}…")


@commands.command("export")
def export(
    name: str,
    out: Annotated[Path, typer.Option("--output", "-o", metavar="ENCODER.safetensors")],
    database: DatabaseOption = None,
) -> None:
    """Write a stored encoder to a file."""
    check_encoder_file(out)
    with opened(database) as db:
        opening.export(db, name, out)
    note(f"Wrote {out}")


@commands.command("refit")
def refit(
    name: str,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Of the new encoder (default: NAME-2).")
    ] = None,
    database: DatabaseOption = None,
    weights: WeightsOption = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Fit a new encoder on all photos of a stored one, and encode them with it."""
    with opened(database, writing=True) as db:
        fitted, images = fitting.refit(
            db, name, new_name, weights=weights, device=device.value, say=note
        )
        root = db.encoder(name).root
        with progress_bar("Indexing", images.count()) as advance:
            report = db.index(
                images,
                encoder=fitted,
                root=Path(root) if root else None,
                progress=advance,
            )
    reports.index_report(report, as_json=False, prune=False)
    note(f"`retrieval-db encoders remove {name}` removes the old one.")


@commands.command("remove")
def remove(
    name: str,
    database: DatabaseOption = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Delete an encoder and the codes of all its images."""
    with opened(database, writing=True) as db:
        stored = db.encoder(name)
        if not yes:
            typer.confirm(
                f"Delete {stored.name!r} and the codes of its images?", abort=True, err=True
            )
        removed = db.remove_encoder(name)
    note(f"Removed {name!r} and the codes of {removed} images.")
