"""`--labels`: labels that notice whether any image has one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from retrieval_db.photos import FOLDER, label_reader, stored_label_reader

from .screen import note

Known = TypeVar("Known", Path, str)


@dataclass
class Labelling(Generic[Known]):
    """Labels by what is known of an image: its file, or its stored path.

    Attributes:
        source: `folder`, or the CSV.
        label_of: says the label; None where there is none.
        paths: how the CSV is to name the images.
        asked, found: how many images were met, and how many of them have a label.
    """

    source: str
    label_of: Callable[[Known], str | None]
    paths: str
    asked: int = 0
    found: int = 0

    def __call__(self, image: Known) -> str | None:
        label = self.label_of(image)
        self.asked += 1
        self.found += label is not None
        return label

    def note_if_useless(self) -> None:
        """Tell the user if the CSV has no label for any image that was met."""
        if self.source != FOLDER and self.asked and not self.found:
            note(f"{self.source} labels none of these images: {self.paths}.")


def of_files(source: str | None) -> Labelling[Path] | None:
    """Labels of image files; None if none were asked for."""
    if source is None:
        return None
    return Labelling(source, label_reader(source), "its relative paths start from its folder")


def of_stored(source: str | None) -> Labelling[str] | None:
    """Labels of images known by their stored paths; None if none were asked for."""
    if source is None:
        return None
    return Labelling(source, stored_label_reader(source), "it names paths as they are stored")
