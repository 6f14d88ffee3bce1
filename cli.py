"""The command line: parse, call, print.

Data goes to stdout, everything else to stderr. Exit code 0 is success, 1 an error, 2 wrong
usage, 130 an interruption.
"""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer
from PIL import Image as PillowImage

import retrieval_db
from retrieval_db.console import (
    database_commands,
    encoder_commands,
    evaluation_commands,
    formats_commands,
    indexing_commands,
    search_commands,
    server_commands,
    training_commands,
)
from retrieval_db.console.failures import Commands
from retrieval_db.console.options import (
    DatabaseOption,
    Device,
    DeviceOption,
    WeightsOption,
    opened,
)

app = typer.Typer(
    cls=Commands,
    help="Image retrieval inside PostgreSQL: binary hash codes, exact and certified search.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(server_commands.commands, name="db")
app.add_typer(encoder_commands.commands, name="encoders")
for command in (
    evaluation_commands.evaluate,
    evaluation_commands.thresholds,
    training_commands.train,
    # Photos in.
    indexing_commands.index,
    indexing_commands.encode,
    formats_commands.load,
    # Answers out.
    search_commands.search,
    search_commands.duplicates,
    formats_commands.export,
):
    app.command()(command)


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


for command in (
    database_commands.migrate,
    database_commands.tune,
    formats_commands.legacy_view,
    database_commands.info,
):
    app.command()(command)


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
