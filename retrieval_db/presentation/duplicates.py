"""A page of near-duplicates: one HTML file with a row of pictures for each group."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from ..duplicates import Group
from ..encoders import StoredEncoder
from ..interchange import replacing
from .rendering import render

TEMPLATE = "duplicates.html.jinja"


def write_duplicates(
    groups: Sequence[Group],
    path: Path,
    *,
    encoder: StoredEncoder,
    radius: int,
    kind: Literal["group", "pair"] = "group",
    limit: int = 200,
    images: int = 20,
) -> None:
    """Write groups as one HTML file that needs no other: pictures are embedded.

    Args:
        groups: in the order in which they are shown.
        path: of the file; replaced when all has been written.
        encoder: whose codes were compared; relative paths start from its root.
        radius: within which they were compared, in bits.
        kind: what they are called: each pair may be a group of two.
        limit: how many groups are shown; the page says how many were left out.
        images: how many of each.

    Raises:
        FormatError: the file cannot be written.
    """
    text = render(
        TEMPLATE,
        groups=groups[:limit],
        omitted=max(0, len(groups) - limit),
        total=len({image.image_id for group in groups for image in group.images}),
        kind=kind,
        encoder=encoder,
        radius=radius,
        root=Path(encoder.root or ""),
        images=images,
    )
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
