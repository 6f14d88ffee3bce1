"""JSON as PostgreSQL's `jsonb` takes it, which is less than Python reads."""

from __future__ import annotations

import json
import re
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

# The escape of a zero byte; not a backslash that is escaped itself.
ZERO = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

# What `numeric` holds, of which the numbers in `jsonb` are.
WHOLE_DIGITS = 131_072
FRACTION_DIGITS = 16_383


def parse(text: str) -> Any:
    """The value of a JSON text.

    Raises:
        ValueError: it is no JSON, or such as `jsonb` cannot hold: with NaN, a number beyond
            `numeric`, a zero byte, half of a surrogate pair; or it is nested too deep for Python.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_number)
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


def _number(text: str) -> float:
    """A number with a fraction or an exponent, if `numeric` has a place for its digits."""
    try:
        number = Decimal(text)
    except InvalidOperation as error:
        raise ValueError(f"{text} is too large") from error
    exponent = number.as_tuple().exponent
    assert isinstance(exponent, int)  # it is finite
    if number.adjusted() >= WHOLE_DIGITS or -exponent > FRACTION_DIGITS:
        raise ValueError("a number has more digits than `numeric` holds")
    return float(number)
