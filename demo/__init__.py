"""The guided first run: real images in, codes in PostgreSQL, ranked answers out.

Three of them: scikit-learn's digits with a network trained on the spot, the user's own
photos, and, where only the core of the package is installed, pictures that it draws itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

from retrieval_db.client import Database
from retrieval_db.errors import UsageError

from .steps import DemoReport, Quality

__all__ = ["DemoReport", "Quality", "run"]

EXTRA = ("torch", "torchvision", "safetensors", "sklearn")


def run(
    database: Database,
    output: Path,
    *,
    images: Path | None = None,
    weights: Path | None = None,
    say: Callable[[str], None] = print,
    device: str = "auto",
) -> DemoReport:
    """Index images, search for some, measure the answers, and show them as pictures.

    It stores its codes under encoders of its own, `demo-digits`, `demo-photos` and
    `demo-made`, and touches no other. Running it again brings them up to date.

    Args:
        database: where the codes go.
        output: folder for the images, the contact sheet and the page; made if need be.
        images: a folder of photos, instead of digits.
        weights: the backbone's weights as a local file, for `images`.
        say: told each step, a line at a time.
        device: auto, cuda, mps or cpu.

    Raises:
        UsageError: `output` cannot be made, or there is no image in `images`.
        ImageError: none of the images can be read.
        DatabaseError: the database answers with an error.
    """
    started = time.perf_counter()
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UsageError(f"The folder {output} cannot be made: {error.strerror}.") from error
    output = output.resolve()
    if images is not None:
        from . import photos

        report = photos.run(database, output, images, weights=weights, say=say, device=device)
    elif missing := missing_packages():
        from . import made

        say(f"Without {', '.join(missing)} there is no network to train here.")
        report = made.run(database, output, say=say)
        say("")
        say("With `pip install 'retrieval-db[demo]'` this demo trains a network on scanned")
        say("digits and finds images with the same content, not copies only.")
    else:
        from . import digits

        report = digits.run(database, output, say=say, device=device)
    report = replace(report, seconds=time.perf_counter() - started)
    say("")
    say(f"Done in {report.seconds:.0f} s.")
    return report


def missing_packages() -> list[str]:
    """What the extra `demo` would add."""
    return [name for name in EXTRA if find_spec(name) is None]
