"""Nested codes: their first bits are a code by themselves, as the whole is."""

from __future__ import annotations


def widths(bits: int, shortest: int) -> tuple[int, ...]:
    """The prefixes of an L-bit code that are codes by themselves, and L at last.

    Args:
        bits: L.
        shortest: the first; each further one is twice as long. 0, or L and more: only L itself.

    >>> widths(64, 16)
    (16, 32, 64)
    >>> widths(48, 16)
    (16, 32, 48)
    >>> widths(64, 0)
    (64,)
    """
    found = []
    prefix = shortest
    while 0 < prefix < bits:
        found.append(prefix)
        prefix *= 2
    return (*found, bits)
