"""Who is told how a training goes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .loop import Epoch


@dataclass(frozen=True)
class Watch:
    """Who is told of the progress.

    Attributes:
        images: (what is done, how many images in all) → what is called with the number of
            images of each step.
        epoch: is called after each epoch.
        say: is called with a sentence for people.
    """

    images: Callable[[str, int], Callable[[int], None]] = lambda title, total: lambda done: None
    epoch: Callable[[Epoch], None] = lambda epoch: None
    say: Callable[[str], None] = lambda message: None
