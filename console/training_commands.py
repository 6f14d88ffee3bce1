"""`retrieval-db train`: labelled images in, a file of encoders out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval_db.errors import MissingExtra, UsageError

from . import training_choices
from .groups import Preprocessing, grouped
from .options import (
    LAST_SEED,
    Device,
    DeviceOption,
    PrecisionOption,
    WeightsOption,
)
from .reports import counted
from .screen import note, print_json, print_table, progress_bars
from .settings import preprocessing

if TYPE_CHECKING:
    from retrieval_db.encoder.training.loop import Epoch

    from .training_choices import Written


@grouped
def train(
    data: Annotated[
        str,
        typer.Option(
            metavar="DATA",
            help="A folder with a folder for each class, a list of `name class` lines, "
            "cifar10[:PATH], mnist[:PATH], cub200:DIR or stanford-dogs:DIR.",
        ),
    ],
    out: Annotated[Path, typer.Option("--output", "-o", metavar="ENCODER.safetensors")],
    *,
    root: Annotated[
        Path | None, typer.Option(help="The folder that a list's names, or downloads, are in.")
    ] = None,
    method: Annotated[
        str, typer.Option(help="orthohash, latent_ce, triplet, hashnet, dch, …; docs/training.md.")
    ] = "orthohash",
    bits: Annotated[str, typer.Option(help="Code lengths, with commas: trained together.")] = "64",
    backbone: Annotated[
        str,
        typer.Option(
            help="A torchvision network; for images of 32 pixels cifar, cifar_medium, cifar_large."
        ),
    ] = "mobilenet_v2",
    frozen: Annotated[
        bool, typer.Option("--frozen", help="Compute features once, and train heads only.")
    ] = False,
    weights: WeightsOption = None,
    preprocess: Preprocessing,
    epochs: Annotated[int | None, typer.Option(help="Passes over the images.")] = None,
    learning_rate: Annotated[float | None, typer.Option("--lr", help="At its highest.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Images a step.")] = None,
    no_mirror: Annotated[
        bool,
        typer.Option("--no-mirror", help="Show the network no mirrored photos: for digits."),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=NUMBER", help="Of the method, such as margin=20."),
    ] = None,
    precision: PrecisionOption = None,
    compact: Annotated[
        bool, typer.Option("--compact", help="Round weights to half precision: half the file.")
    ] = False,
    protocol: Annotated[
        str | None,
        typer.Option(
            help="Train on this protocol's training images (default: the split `train`, or all)."
        ),
    ] = None,
    validation: Annotated[
        float, typer.Option(min=0, max=0.5, help="Share to hold out and watch, such as 0.1.")
    ] = 0.0,
    name: Annotated[
        str | None, typer.Option(help="Of the encoder; NAME-L with several widths.")
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=LAST_SEED, help="Of protocol, weights, order, cuts and targets."),
    ] = 0,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was interrupted.")
    ] = False,
    device: DeviceOption = Device.auto,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Train an encoder on labelled images, for one code length or several at once."""
    files = training_choices.Files(out)
    files.check(data)
    training_choices.need_torch()
    from retrieval_db.encoder import save_all, training
    from retrieval_db.encoder.datasets import open_data
    from retrieval_db.encoder.training import curves
    from retrieval_db.encoder.training.watch import Watch

    dataset = open_data(data, root)
    rows, held_out = training_choices.rows_to_train(dataset, protocol, validation, seed)
    chosen = training_choices.method(method)
    descent = {
        "--epochs": epochs,
        "--lr": learning_rate,
        "--batch-size": batch_size,
        "--no-mirror": no_mirror or None,
        "--precision": precision,
    }
    useless = [option for option, value in descent.items() if value is not None]
    if useless and not chosen.trained:
        raise UsageError(
            f"{chosen.name} is fitted at once, and has no use for {', '.join(useless)}: leave that "
            "out."
        )
    frozen = frozen or not chosen.trained
    recipe = training.usual_recipe(chosen.name, backbone, frozen).changed(
        bits=training_choices.lengths(bits),
        epochs=epochs,
        learning_rate=learning_rate,
        batch_size=batch_size,
        mirror=False if no_mirror else None,
        options=training_choices.assignments(settings or []),
        precision=precision,
        seed=seed,
    )
    if resume and (done := training_choices.finished(files, recipe)):
        note(
            f"{out} is there, and no state beside it: this training is finished. Without --resume "
            "it begins anew."
        )
        _show(done, (), out, as_json)
        return
    if resume and not files.state.exists():
        note("There is nothing to resume: the training begins anew.")
    base = training.unfitted(
        backbone, weights=weights, device=device.value, changes=preprocessing(preprocess)
    )
    held = f", {len(held_out)} held out" if len(held_out) else ""
    note(
        f"{chosen.name} on {dataset.name}: {len(rows)} images{held}, "
        f"{'frozen features of ' if frozen else ''}{backbone}."
    )
    curve: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        curve.append(epoch)
        curves.write_csv(curve, files.table)
        tested = "" if epoch.validation is None else f", held out {epoch.validation:.4f}"
        note(
            f"epoch {epoch.epoch}/{recipe.epochs}: loss {epoch.loss:.4f}, "
            f"accuracy {epoch.accuracy:.4f}{tested}, {epoch.seconds:.0f} s"
        )

    with progress_bars() as bars:
        trained = training.train(
            dataset,
            rows,
            base,
            recipe,
            name=name or training_choices.encoder_name(out, chosen.name, recipe.bits),
            frozen=frozen,
            held_out=held_out,
            state=files.state,
            resume=resume,
            watch=Watch(bars, report, note),
        )
    encoders = training.compact(trained.encoders) if compact else trained.encoders
    save_all(encoders, out)
    files.state.unlink(missing_ok=True)
    if curve:
        try:
            curves.plot(curve, files.plot, f"{chosen.name} on {dataset.name}")
        except MissingExtra as error:
            note(str(error))
    note(f"Wrote {out}.")
    written = [
        training_choices.Written(one.name, one.bits, trained.images, one.fingerprint)
        for one in encoders
    ]
    _show(written, trained.skipped, out, as_json)


def _show(written: Sequence[Written], skipped: Sequence[str], out: Path, as_json: bool) -> None:
    if skipped:
        note(f"{counted(len(skipped), 'image')} could not be read: {skipped[0]}")
    if as_json:
        print_json(
            {
                "file": out,
                "images": written[0].images,
                "skipped": skipped,
                "encoders": [
                    {"name": one.name, "bits": one.bits, "fingerprint": one.fingerprint}
                    for one in written
                ],
            }
        )
        return
    print_table(
        ("encoder", "bits", "images", "fingerprint"),
        [(one.name, one.bits, one.images, one.fingerprint[:12] + "…") for one in written],
    )
    chosen = f"{out}:{written[0].name}" if len(written) > 1 else str(out)
    note(f"`retrieval-db index PHOTOS --encoder {chosen}` uses it.")
