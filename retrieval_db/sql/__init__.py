"""Named queries, each in a `.sql` file under the room that uses it.

A query begins with a line `-- name: NAME`; the comment lines after it say what it is for.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.resources import files
from typing import LiteralString, cast


@cache
def queries(room: str) -> dict[str, LiteralString]:
    """Read `sql/ROOM.sql`: the text of each query under its name."""
    text = files(__package__).joinpath(f"{room}.sql").read_text(encoding="utf-8")
    parts = re.split(r"^-- name: (\w+)\n", text, flags=re.MULTILINE)[1:]
    named = zip(parts[::2], parts[1::2], strict=True)
    # The files are part of the program: no input of a user ever gets into them.
    return {name: cast(LiteralString, body.strip()) for name, body in named}
