"""What callers give, made what the SQL functions take, or refused in plain words."""

from __future__ import annotations

from collections.abc import Sequence
from operator import index
from typing import Any, SupportsIndex, overload

from .errors import UsageError


@overload
def whole(name: str, value: SupportsIndex) -> int: ...
@overload
def whole(name: str, value: SupportsIndex | None) -> int | None: ...
def whole(name: str, value: SupportsIndex | None) -> int | None:
    """A whole number, of Python or NumPy, as Python's; None stays.

    Raises:
        UsageError: it is none: 2.5, '3', True.
    """
    if value is None:
        return None
    try:
        if not isinstance(value, bool):
            return index(value)
    except TypeError:
        pass
    raise UsageError(f"{name} is a whole number, not {value!r}.")


def texts(name: str, values: Sequence[str] | None) -> list[str] | None:
    """A list of texts; None stays.

    Raises:
        UsageError: one text, which is a sequence of letters; or something that is no text.
    """
    if values is None:
        return None
    found = [values] if isinstance(values, str) else list(values)
    if isinstance(values, str) or not all(isinstance(each, str) for each in found):
        raise UsageError(f"{name} are a list of texts, such as [{str(found[0])!r}].")
    return found


def one_of(name: str, value: Any, choices: Sequence[str]) -> None:
    """See that a value is one of the words.

    Raises:
        UsageError: it is not.
    """
    if value not in choices:
        words = " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])
        raise UsageError(f"{name} is {words}, not {value!r}.")
