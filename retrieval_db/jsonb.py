"""JSON as PostgreSQL's `jsonb` takes it, which is less than Python reads."""

from __future__ import annotations

import json
import re
from typing import Any, NoReturn

# The escape of a zero byte; not a backslash that is escaped itself.
ZERO = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")


def parse(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or such as `jsonb` cannot hold: with NaN, a zero byte, half of
            a surrogate pair; or it is nested too deep for Python.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant)
        if "\\ud" in text.lower():
            # Half of a pair cannot be encoded.
            json.dumps(value, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if ZERO.search(text):
        raise ValueError("it contains a zero byte")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number there")
