"""HTML from the templates of this package, with pictures embedded."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from .answer import visible
from .thumbnails import data_uri, thumbnail

# Twice the size at which pictures are shown, for screens with small pixels.
THUMB = 240


def render(template: str, **values: Any) -> str:
    """The text of a template; everything in `values` is escaped."""
    # Late: only pages need Jinja2, and every command imports this package.
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    @lru_cache(maxsize=1024)
    def picture(file: Path) -> tuple[str | None, str]:
        found = thumbnail(file, THUMB)
        return (None, found) if isinstance(found, str) else (data_uri(found), "")

    environment = Environment(
        loader=FunctionLoader(lambda name: files(__package__).joinpath(name).read_text("utf-8")),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["visible"] = visible
    environment.globals["picture"] = picture
    return environment.get_template(template).render(**values)
