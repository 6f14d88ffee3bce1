"""`retrieval-db evaluate`, `thresholds` and `encoders health`: how good the codes are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from retrieval_db.client import Database
from retrieval_db.encoders import Encoder, StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.evaluation import POOLS

from . import data_evaluation, evaluating, scores
from .evaluating import Report
from .groups import Network, grouped
from .options import LAST_SEED, DatabaseOption, Device, DeviceOption, JsonOption, opened
from .screen import check_folder, note
from .settings import Settings, option, preprocessing

if TYPE_CHECKING:
    from retrieval_db.encoder.datasets import Dataset, Split


class EvaluatedStage(StrEnum):
    coarse = "coarse"
    fine = "fine"
    exhaustive = "exhaustive"


@dataclass(frozen=True)
class Evaluated:
    """What is evaluated, and by which queries."""

    encoder: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="ENCODER",
            help="Stored names; with --data also .safetensors files, and methods such as itq64.",
        ),
    ] = None
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="Labelled images: a folder of folders, a list, cifar10, mnist, cub200:DIR, "
            "stanford-dogs:DIR. Without it, the live table.",
        ),
    ] = None
    root: Annotated[
        Path | None, typer.Option("--root", help="Where a list's names, or downloads, are.")
    ] = None
    protocol: Annotated[
        str | None,
        typer.Option(help="With --data: cvprw15, cifar10-5k, unseen or full (default: full)."),
    ] = None
    validation: Annotated[
        bool,
        typer.Option(
            "--validation", help="Within the training set, to choose by: leaves the test alone."
        ),
    ] = False
    queries: Annotated[
        str | None,
        typer.Option(
            metavar="FOLDER|FILE.npz|N",
            help="For the live table: photos in folders of their labels, codes, or N labelled "
            "rows (default: 1000).",
        ),
    ] = None
    seed: Annotated[
        int,
        typer.Option(min=0, max=LAST_SEED, help="Of the rows, classes or images that are drawn."),
    ] = 0


DEFAULT_K = 1000
DEFAULT_QUERIES = "1000"
DEFAULT_PROTOCOL = "full"


@grouped
def evaluate(
    *,
    evaluated: Evaluated,
    k: Annotated[
        int | None,
        typer.Option(
            "--k",
            "-k",
            min=0,
            help="Of mAP@k; 0: the whole ranking (default: 1000, or the protocol's)",
        ),
    ] = None,
    stage: Annotated[
        EvaluatedStage,
        typer.Option(help="fine, exhaustive: each pool beside the float search; live table only."),
    ] = EvaluatedStage.coarse,
    pools: Annotated[
        str | None,
        typer.Option(help=f"Of --stage fine, with commas (default: {','.join(map(str, POOLS))})."),
    ] = None,
    baselines: Annotated[
        bool | None,
        typer.Option(help="cosine and ITQ of the same features (default: for unseen)."),
    ] = None,
    health: Annotated[bool, typer.Option("--health", help="Look at the bits, too.")] = False,
    plots: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw the curves: PNG and SVG.")
    ] = None,
    database: DatabaseOption = None,
    network: Network,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
) -> None:
    """Measure how good the answers are: mAP, precision@k, precision–recall; ties in expectation."""
    if pools is not None and stage is not EvaluatedStage.fine:
        raise UsageError("--pools goes with --stage fine.")
    if health and stage is not EvaluatedStage.coarse:
        raise UsageError("--health goes with --stage coarse.")
    if plots is not None:
        check_folder(plots)
    if evaluated.data is None:
        asking = _asking(evaluated, network, device, baselines)
        rank = _whole(DEFAULT_K if k is None else k)
        with opened(database) as db:
            stored = _stored(db, evaluated.encoder)
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
    settings = Settings(network=network, device=device.value)
    report = _in_memory(evaluated, settings, database, k=k, baselines=baselines, look=health)
    scores.report(report, as_json=as_json, plots=plots)


@grouped
def thresholds(
    *,
    evaluated: Evaluated,
    database: DatabaseOption = None,
    network: Network,
    device: DeviceOption = Device.auto,
    as_json: JsonOption = False,
) -> None:
    """Show precision, recall and F1 for each Hamming radius, and the best radius."""
    if evaluated.data is None:
        with opened(database) as db:
            asking = _asking(evaluated, network, device)
            report = evaluating.over_table(
                db, _stored(db, evaluated.encoder), asking, k=DEFAULT_K, look=False, say=note
            )
    else:
        settings = Settings(network=network, device=device.value)
        report = _in_memory(evaluated, settings, database, k=None, baselines=False, look=False)
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


def _asking(
    evaluated: Evaluated, network: Network, device: Device, baselines: bool | None = None
) -> evaluating.Asking:
    """How the live table is asked.

    Raises:
        UsageError: options that only a data set has a use for.
    """
    given = {
        "--root": evaluated.root,
        "--protocol": evaluated.protocol,
        "--validation": evaluated.validation or None,
        "--baselines": baselines,
        "--backbone": network.backbone,
        **{option(name): value for name, value in preprocessing(network).items()},
    }
    if useless := [option for option, value in given.items() if value is not None]:
        raise UsageError(
            f"Without --data the live table is asked, which has no use for {', '.join(useless)}: "
            "add --data, or leave that out."
        )
    queries = DEFAULT_QUERIES if evaluated.queries is None else evaluated.queries
    return evaluating.Asking(queries, evaluated.seed, network.weights, device.value)


def _in_memory(
    evaluated: Evaluated,
    settings: Settings,
    database: str | None,
    *,
    k: int | None,
    baselines: bool | None,
    look: bool,
) -> Report:
    from retrieval_db.encoder import datasets

    if not evaluated.encoder:
        raise UsageError("Name an encoder: a file, a stored one, or a method such as itq64.")
    assert evaluated.data is not None
    if evaluated.queries is not None:
        raise UsageError("--queries asks the live table; with --data the protocol has its queries.")
    protocol = evaluated.protocol or DEFAULT_PROTOCOL
    seed = evaluated.seed
    data: Dataset = datasets.open_data(evaluated.data, evaluated.root)
    split: Split = datasets.protocol(data, protocol, seed)
    if evaluated.validation:
        split = datasets.validation(data, split, seed)
    candidates: list[Encoder] = []
    for name in evaluated.encoder:
        candidates += data_evaluation.candidates(name, settings, database, say=note)
    trial = data_evaluation.Trial(
        data,
        split,
        seed,
        k=split.k if k is None else _whole(k),
        baselines=protocol == "unseen" if baselines is None else baselines,
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


def _pools(text: str | None) -> Sequence[int]:
    """Sizes of pools, with commas between.

    Raises:
        UsageError: something else.
    """
    if text is None:
        return POOLS
    try:
        found = [int(part) for part in text.split(",")]
    except ValueError as error:
        raise UsageError(f"--pools is a list such as 50,100,200; not {text!r}.") from error
    if min(found) < 1:
        raise UsageError("A pool holds at least one code.")
    return found
