"""`retrieval-db evaluate`, `thresholds` and `encoders health`: how good the codes are."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval_db.client import Database
from retrieval_db.encoders import Encoder, StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.evaluation import POOLS

from . import choosing, data_evaluation, evaluating, scores
from .evaluating import Report
from .options import (
    BackboneOption,
    DatabaseOption,
    Device,
    DeviceOption,
    InputSizeOption,
    JsonOption,
    MeanOption,
    StdOption,
    WeightsOption,
    opened,
)
from .screen import note

if TYPE_CHECKING:
    from retrieval_db.encoder.datasets import Dataset, Split


class EvaluatedStage(StrEnum):
    coarse = "coarse"
    fine = "fine"
    exhaustive = "exhaustive"


EncodersArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="ENCODER",
        help="Stored names; with --data also .safetensors files, and methods such as itq64.",
    ),
]
DataOption = Annotated[
    str | None,
    typer.Option(
        metavar="DATA",
        help="Labelled images: a folder of folders, a list, cifar10, mnist, cub200:DIR, "
        "stanford-dogs:DIR. Without it, the live table.",
    ),
]
DataRootOption = Annotated[
    Path | None, typer.Option("--root", help="Where a list's names, or downloads, are.")
]
ProtocolOption = Annotated[
    str, typer.Option(help="cvprw15, cifar10-5k, unseen or full; with --data.")
]
ValidationOption = Annotated[
    bool,
    typer.Option(
        "--validation", help="Within the training set, to choose by: leaves the test alone."
    ),
]
QueriesOption = Annotated[
    str,
    typer.Option(
        metavar="FOLDER|FILE.npz|N",
        help="For the live table: photos in folders of their labels, codes, or N labelled rows.",
    ),
]
SeedOption = Annotated[int, typer.Option(help="Of the rows, classes or images that are drawn.")]
RankOption = Annotated[
    int | None,
    typer.Option(
        "--k", "-k", min=0, help="Of mAP@k; 0: the whole ranking (default: 1000, or the protocol's)"
    ),
]
DEFAULT_K = 1000
DEFAULT_QUERIES = "1000"


def evaluate(
    encoder: EncodersArgument = None,
    data: DataOption = None,
    root: DataRootOption = None,
    protocol: ProtocolOption = "full",
    validation: ValidationOption = False,
    queries: QueriesOption = DEFAULT_QUERIES,
    seed: SeedOption = 0,
    k: RankOption = None,
    stage: Annotated[
        EvaluatedStage,
        typer.Option(help="fine, exhaustive: each pool beside the float search; live table only."),
    ] = EvaluatedStage.coarse,
    pools: Annotated[str, typer.Option(help="Of --stage fine, with commas.")] = ",".join(
        map(str, POOLS)
    ),
    baselines: Annotated[
        bool | None,
        typer.Option(help="cosine and ITQ of the same features (default: for unseen)."),
    ] = None,
    health: Annotated[bool, typer.Option("--health", help="Look at the bits, too.")] = False,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the curves: PNG and SVG.")
    ] = None,
    database: DatabaseOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    input_size: InputSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
) -> None:
    """Measure how good the answers are: mAP, precision@k, precision–recall; ties in expectation."""
    if data is None:
        asking = evaluating.Asking(queries, seed, weights, device.value)
        rank = _whole(DEFAULT_K if k is None else k)
        with opened(database) as db:
            stored = _stored(db, encoder)
            if stage is not EvaluatedStage.coarse:
                sizes = _pools(pools) if stage is EvaluatedStage.fine else []
                found = {
                    one.name: evaluating.compared(db, one, asking, sizes, k=rank, say=note)
                    for one in stored
                }
                scores.stages(found, as_json=as_json, plots=plots)
                return
            report = evaluating.over_table(db, stored, asking, k=rank, look=health, say=note)
        scores.report(report, as_json=as_json, plots=plots)
        return
    if stage is not EvaluatedStage.coarse:
        raise UsageError(
            "--stage fine and exhaustive search the live table: index the images with "
            "`--labels folder`, then leave --data out."
        )
    settings = choosing.Settings(
        backbone=backbone,
        weights=weights,
        input_size=input_size,
        mean=mean,
        std=std,
        device=device.value,
    )
    report = _in_memory(
        encoder,
        data,
        root,
        protocol,
        settings,
        database,
        seed=seed,
        validation=validation,
        k=k,
        baselines=baselines,
        look=health,
    )
    scores.report(report, as_json=as_json, plots=plots)


def thresholds(
    encoder: EncodersArgument = None,
    data: DataOption = None,
    root: DataRootOption = None,
    protocol: ProtocolOption = "full",
    validation: ValidationOption = False,
    queries: QueriesOption = DEFAULT_QUERIES,
    seed: SeedOption = 0,
    database: DatabaseOption = None,
    backbone: BackboneOption = None,
    weights: WeightsOption = None,
    input_size: InputSizeOption = None,
    mean: MeanOption = None,
    std: StdOption = None,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
) -> None:
    """Show precision, recall and F1 for each Hamming radius, and the best radius."""
    if data is None:
        with opened(database) as db:
            asking = evaluating.Asking(queries, seed, weights, device.value)
            report = evaluating.over_table(
                db, _stored(db, encoder), asking, k=DEFAULT_K, look=False, say=note
            )
    else:
        settings = choosing.Settings(
            backbone=backbone,
            weights=weights,
            input_size=input_size,
            mean=mean,
            std=std,
            device=device.value,
        )
        report = _in_memory(
            encoder,
            data,
            root,
            protocol,
            settings,
            database,
            seed=seed,
            validation=validation,
            k=None,
            baselines=False,
            look=False,
        )
    scores.thresholds(report, as_json=as_json)


def health(
    name: Annotated[str | None, typer.Argument(help="Default: every encoder.")] = None,
    database: DatabaseOption = None,
    as_json: JsonOption = False,
) -> None:
    """Look at the bits: balance, correlation, equal codes, buckets; and say if they collapsed."""
    with opened(database) as db:
        filled = [one for one, images in db.info().encoders if images]
        found = {one.name: db.health(one.name) for one in ([db.encoder(name)] if name else filled)}
    scores.healths(found, as_json=as_json)


def _in_memory(
    names: Sequence[str] | None,
    spec: str,
    root: Path | None,
    protocol_name: str,
    settings: choosing.Settings,
    database: str | None,
    *,
    seed: int,
    validation: bool,
    k: int | None,
    baselines: bool | None,
    look: bool,
) -> Report:
    from retrieval_db.encoder import datasets

    if not names:
        raise UsageError("Name an encoder: a file, a stored one, or a method such as itq64.")
    data: Dataset = datasets.open_data(spec, root)
    split: Split = datasets.protocol(data, protocol_name, seed)
    if validation:
        split = datasets.validation(data, split, seed)
    candidates: list[Encoder] = []
    for name in names:
        candidates += data_evaluation.candidates(name, settings, database, say=note)
    trial = data_evaluation.Trial(
        data,
        split,
        k=split.k if k is None else _whole(k),
        baselines=protocol_name == "unseen" if baselines is None else baselines,
        look=look,
        say=note,
    )
    return trial.run(candidates)


def _stored(db: Database, names: Sequence[str] | None) -> list[StoredEncoder]:
    """The encoders of these names, or the only one."""
    return [db.encoder(name) for name in names] if names else [db.encoder()]


def _whole(k: int) -> int | None:
    """k, where 0 stands for the whole ranking."""
    return k or None


def _pools(text: str) -> list[int]:
    """Sizes of pools, with commas between.

    Raises:
        UsageError: something else.
    """
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--pools is a list such as 50,100,200; not {text!r}.") from error
    if min(found) < 1:
        raise UsageError("A pool holds at least one code.")
    return found
