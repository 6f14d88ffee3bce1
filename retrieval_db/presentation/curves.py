"""Curves of an evaluation, drawn with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import MissingExtra, UsageError
from ..evaluation import Evaluation, StageScore

FORMATS = ("png", "svg")
DPI = 150

# Okabe & Ito's colours, which colour-blind people can tell apart, without the yellow.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")


def write_rankings(
    evaluations: Sequence[Evaluation], stem: Path, title: str, *, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """precision@k and precision–recall of several rankings, side by side in one figure.

    Args:
        stem: of the files' paths; the folder is made.
        formats: what matplotlib can write, such as png.

    Returns:
        The files.

    Raises:
        MissingExtra: matplotlib is not installed.
        UsageError: the files cannot be written.
    """
    figure, (left, right) = _figure(title, 2)
    for number, one in enumerate(evaluations):
        style = _style(number)
        curve = one.precision_at
        left.plot(curve.ranks, curve.precision, label=one.name, **style)
        if one.radius is not None:
            inside = one.radius.retrieved > 0
            right.plot(
                one.radius.recall[inside],
                one.radius.precision[inside],
                marker=".",
                label=one.name,
                **style,
            )
    left.set(xscale="log", xlabel="k", ylabel="precision@k", ylim=(0, 1.02))
    left.xaxis.set_major_formatter("{x:,.0f}")
    right.set(xlabel="recall", ylabel="precision", xlim=(0, 1.02), ylim=(0, 1.02))
    right.set_title("within each Hamming radius", fontsize="medium")
    left.set_title("ties in expectation", fontsize="medium")
    _legend(figure, left)
    return _save(figure, stem, formats)


def write_pools(
    scores: Sequence[StageScore], stem: Path, title: str, *, formats: Sequence[str] = FORMATS
) -> list[Path]:
    """Recall of the exhaustive search, mAP, and time, by the size of the pool, in one figure.

    Arguments, result and errors as `write_rankings`.
    """
    figure, (left, middle, right) = _figure(title, 3)
    fine = [one for one in scores if one.stage == "fine"]
    pools = [one.pool for one in fine]
    for number, k in enumerate((10, 100)):
        recalls = [getattr(one, f"recall_at_{k}") for one in fine]
        left.plot(pools, recalls, marker="o", label=f"recall@{k}", **_style(number))
    left.set(ylabel="recall of the exhaustive search", ylim=(0, 1.02))
    left.legend(frameon=False, loc="lower right")
    values = [one.mean_average_precision for one in fine]
    middle.plot(pools, values, marker="o", label="fine", **_style(0))
    middle.set(ylabel=f"mAP@{fine[0].k}" if fine else "mAP")
    times = [one.milliseconds_median for one in fine]
    right.plot(pools, times, marker="o", label="fine", **_style(0))
    right.set(ylabel="milliseconds (median)")
    for number, stage in enumerate(("coarse", "exhaustive"), start=1):
        for one in (score for score in scores if score.stage == stage):
            level = {"linestyle": "--" if number == 1 else ":", "color": COLOURS[number]}
            middle.axhline(one.mean_average_precision, label=stage, **level)
            right.axhline(one.milliseconds_median, label=stage, **level)
    right.set_ylim(bottom=0)
    middle.legend(frameon=False)
    right.legend(frameon=False)
    for axes in (left, middle, right):
        axes.set(xscale="log", xlabel="pool", xticks=pools, xticklabels=[str(p) for p in pools])
        axes.minorticks_off()
    return _save(figure, stem, formats)


def _figure(title: str, panels: int) -> tuple[Any, Any]:
    try:
        from matplotlib.figure import Figure
    except ModuleNotFoundError as error:
        raise MissingExtra("Plots need matplotlib: pip install 'retrieval-db[plots]'.") from error
    figure = Figure(figsize=(4.6 * panels, 4.2), layout="constrained")
    figure.suptitle(title, fontsize="medium")
    axes = figure.subplots(1, panels)
    for one in np.atleast_1d(axes):
        one.grid(alpha=0.25)
        one.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _style(number: int) -> dict[str, Any]:
    """A colour, and after all colours another kind of line."""
    lines = ("-", "--", ":", "-.")
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": lines[number // len(COLOURS) % len(lines)],
        "linewidth": 1.6,
    }


def _legend(figure: Any, axes: Any) -> None:
    handles, names = axes.get_legend_handles_labels()
    figure.legend(
        handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize="small"
    )


def _save(figure: Any, stem: Path, formats: Sequence[str]) -> list[Path]:
    files = [stem.with_name(f"{stem.name}.{kind}") for kind in formats]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            figure.savefig(file, dpi=DPI)
    except OSError as error:
        raise UsageError(f"Cannot write {error.filename}: {error.strerror}.") from error
    return files
