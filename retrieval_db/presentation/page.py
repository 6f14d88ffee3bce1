"""A page: one HTML file with queries, their neighbours, and the SQL to type oneself."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..interchange import replacing
from .answer import Answer
from .rendering import render

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
    text = render(
        TEMPLATE,
        answers=answers[:limit],
        omitted=max(0, len(answers) - limit),
        title=title,
        introduction=introduction,
        facts=facts,
        hits=hits,
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
