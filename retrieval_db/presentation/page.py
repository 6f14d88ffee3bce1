"""A page: one HTML file with queries, their neighbours, and the SQL to type oneself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from importlib.resources import files
from pathlib import Path

from ..interchange import replacing
from .answer import Answer, visible
from .thumbnails import data_uri, thumbnail

# Twice the size at which pictures are shown, for screens with small pixels.
THUMB = 240
TEMPLATE = "page.html.jinja"


def write_page(
    answers: Sequence[Answer],
    path: Path,
    *,
    title: str = "Nearest images",
    introduction: str = "",
    facts: Sequence[tuple[str, str]] = (),
    limit: int = 100,
    hits: int = 10,
) -> None:
    """Write answers as one HTML file that needs no other: pictures are embedded.

    Args:
        answers: in the order in which they are shown.
        path: of the file; replaced when all has been written.
        title: of the page.
        introduction: a paragraph under the title.
        facts: names and values shown at the top, such as ("mAP", "0.98").
        limit: how many answers are shown; the page says how many were left out.
        hits: how many neighbours of each.

    Raises:
        FormatError: the file cannot be written.
    """
    # Late: only this function needs Jinja2, and every command imports this module.
    from jinja2 import Environment, StrictUndefined

    @lru_cache(maxsize=1024)
    def picture(file: Path) -> tuple[str | None, str]:
        found = thumbnail(file, THUMB)
        return (None, found) if isinstance(found, str) else (data_uri(found), "")

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["visible"] = visible
    environment.globals["picture"] = picture
    template = environment.from_string(files(__package__).joinpath(TEMPLATE).read_text("utf-8"))
    text = template.render(
        answers=answers[:limit],
        omitted=max(0, len(answers) - limit),
        title=title,
        introduction=introduction,
        facts=facts,
        hits=hits,
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
