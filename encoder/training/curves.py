"""The curves of a training, as CSV and as a picture."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path

from retrieval_db.errors import MissingExtra

from ..files import write_result
from .loop import Epoch


def write_csv(curve: Sequence[Epoch], path: Path) -> None:
    """A line for each epoch, with a header; whole or not at all.

    Raises:
        FormatError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(Epoch)], lineterminator="\n")
    writer.writeheader()
    for epoch in curve:
        writer.writerow(asdict(epoch))
    write_result(path, text.getvalue().encode())


def plot(curve: Sequence[Epoch], path: Path, title: str) -> None:
    """Loss and accuracy over the epochs, as PNG, SVG or PDF by the file's ending.

    Raises:
        MissingExtra: matplotlib is not installed.
        FormatError: it cannot be written.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as error:
        raise MissingExtra(
            "The plot of the curves needs matplotlib: pip install 'retrieval-db[plots]'."
        ) from error
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    numbers = [epoch.epoch for epoch in curve]
    left.plot(numbers, [epoch.loss for epoch in curve], color="C0", marker=".")
    left.set(xlabel="epoch", ylabel="loss", title=title)
    right.plot(numbers, [epoch.accuracy for epoch in curve], label="training", marker=".")
    if curve and curve[-1].validation is not None:
        right.plot(numbers, [epoch.validation for epoch in curve], label="held out", marker=".")
        right.legend()
    right.set(xlabel="epoch", ylabel="accuracy of the softmax")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    kind = path.suffix.removeprefix(".") or "png"
    content = io.BytesIO()
    figure.savefig(content, format=kind, dpi=120)
    write_result(path, content.getvalue())
