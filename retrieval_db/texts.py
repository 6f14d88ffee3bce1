"""Paths and labels as the tables can hold them."""

# The B-trees on both refuse rows of more than 2,704 bytes.
LONGEST = 2_600


def encoded(text: str, longest: int | None = LONGEST) -> bytes:
    """The bytes of a text that can be stored, at most so many.

    Raises:
        ValueError: it cannot; the message goes on from what the text is called.
    """
    try:
        found = text.encode()
    except UnicodeEncodeError as error:
        raise ValueError("is not UTF-8") from error
    if b"\0" in found:
        raise ValueError("contains a zero byte")
    if longest is not None and len(found) > longest:
        raise ValueError(f"has {len(found):,} bytes, more than {longest:,}")
    return found
