"""Hash codes: bits, their packed form, and the four words that stand in the table.

A code has L bits, a multiple of 4 from 4 to 256; bit 0 is the most significant. Word k of
four holds bits [kL/4, (k+1)L/4) as an unsigned integer in a `bigint`; at L = 256 a word has
all 64 bits and is read in two's complement. The packed form is that of `np.packbits`:
uint8 [N, ceil(L/8)], padded with zero bits at the end.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import suppress
from operator import index
from typing import SupportsIndex

import numpy as np
from numpy.typing import ArrayLike, NDArray

from .errors import InvalidCode, WrongWidth

MIN_BITS = 4
MAX_BITS = 256
WORDS = 4

Words = tuple[int, int, int, int]


def check_bits(bits: int) -> int:
    """Return `bits` if it is a code length that the tables can hold.

    Raises:
        InvalidCode: it is not a multiple of 4 from 4 to 256.
    """
    if not MIN_BITS <= bits <= MAX_BITS or bits % WORDS:
        raise InvalidCode(
            f"A code has a multiple of 4 bits, from {MIN_BITS} to {MAX_BITS}; got {bits}."
        )
    return int(bits)


def packed_size(bits: int) -> int:
    """Bytes of one packed code of `bits` bits."""
    return (check_bits(bits) + 7) // 8


def binarize(outputs: ArrayLike) -> NDArray[np.uint8]:
    """Turn an encoder's outputs into packed codes: a bit is 1 iff its output is > 0.

    Args:
        outputs: [N, L] numbers.

    Returns:
        uint8 [N, ceil(L/8)].

    Raises:
        InvalidCode: not two-dimensional, L is no code length, or an output is NaN.
    """
    array = np.asarray(outputs)
    if array.ndim != 2:
        raise InvalidCode(f"Outputs must be an array [N, L]; got the shape {array.shape}.")
    check_bits(array.shape[1])
    if np.isnan(array).any():
        raise InvalidCode("The encoder's outputs contain NaN; no bit can be taken from them.")
    return np.packbits(array > 0, axis=1)


def unpack(packed: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Turn packed codes uint8 [N, ceil(L/8)] into bits uint8 [N, L] of zeros and ones."""
    return np.unpackbits(check_packed(packed, bits), axis=1, count=bits)


def check_packed(packed: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """Return the array if it holds packed codes of `bits` bits.

    Raises:
        WrongWidth: the rows have another number of bytes.
        InvalidCode: not uint8 [N, ceil(L/8)], or a padding bit is set.
    """
    array = np.asarray(packed)
    size = packed_size(bits)
    if array.dtype != np.uint8 or array.ndim != 2:
        raise InvalidCode(
            f"Packed codes are uint8 [N, {size}] for {bits} bits; "
            f"got {array.dtype} {list(array.shape)}."
        )
    if array.shape[1] != size:
        raise WrongWidth(
            f"Codes of {bits} bits take {size} bytes each; these have {array.shape[1]}."
        )
    padding = size * 8 - bits
    if padding and (array[:, -1] & ((1 << padding) - 1)).any():
        raise InvalidCode(f"A bit beyond the {bits} bits of a code is set.")
    return array


def to_words(packed: NDArray[np.uint8], bits: int) -> NDArray[np.int64]:
    """Turn packed codes uint8 [N, ceil(L/8)] into words int64 [N, 4]."""
    width = bits // WORDS
    padded = np.zeros((len(packed), WORDS, 64), dtype=np.uint8)
    padded[:, :, 64 - width :] = unpack(packed, bits).reshape(len(packed), WORDS, width)
    big_endian = np.packbits(padded, axis=2).view(">u8")[:, :, 0]
    return big_endian.astype(np.uint64).view(np.int64)


def from_words(words: ArrayLike, bits: int) -> NDArray[np.uint8]:
    """Turn words int64 [N, 4] into packed codes uint8 [N, ceil(L/8)].

    Raises:
        InvalidCode: not [N, 4] integers.
        WrongWidth: a word has more than L/4 bits.
    """
    array = np.asarray(words)
    if array.ndim != 2 or array.shape[1] != WORDS or array.dtype.kind not in "iu":
        raise InvalidCode(f"Words are integers [N, 4]; got {array.dtype} {list(array.shape)}.")
    width = check_bits(bits) // WORDS
    unsigned = array.astype(np.int64).view(np.uint64)
    if width < 64 and (unsigned >> np.uint64(width)).any():
        raise WrongWidth(f"A word of a {bits}-bit code has {width} bits; one of these has more.")
    big_endian = np.ascontiguousarray(unsigned.astype(">u8"))
    word_bits = np.unpackbits(big_endian.view(np.uint8).reshape(-1, WORDS, 8), axis=2)
    return np.packbits(word_bits[:, :, 64 - width :].reshape(len(array), bits), axis=1)


def words_of(packed: NDArray[np.uint8], bits: int) -> Words:
    """The four words of one packed code uint8 [ceil(L/8)], as Python integers."""
    first, second, third, fourth = to_words(packed[None, :], bits)[0].tolist()
    return first, second, third, fourth


def signed_words(words: Sequence[SupportsIndex]) -> Words:
    """Four words, signed or unsigned, as PostgreSQL's bigint holds them.

    Raises:
        InvalidCode: not four whole numbers of 64 bits.
    """
    try:
        first, second, third, fourth = map(index, words)
    except (TypeError, ValueError) as error:
        raise InvalidCode(f"A code is four words, whole numbers; got {words!r}.") from error
    numbers = (first, second, third, fourth)
    if any(not -(1 << 63) <= number < 1 << 64 for number in numbers):
        raise InvalidCode("A word of a code has at most 64 bits.")
    first, second, third, fourth = (
        number - (1 << 64) if number >= 1 << 63 else number for number in numbers
    )
    return first, second, third, fourth


def parse(text: str, bits: int) -> NDArray[np.uint8]:
    """Read one code from its text: hex digits, a bit string, or four decimal words.

    Hex has L/4 digits, a bit string L; at L = 4 a single digit is hex. Four words stand
    between commas, as `code_1,code_2,code_3,code_4`.

    Returns:
        The packed code, uint8 [ceil(L/8)].

    Raises:
        InvalidCode: none of the three forms.
        WrongWidth: one of them, but of another length.
    """
    check_bits(bits)
    text = text.strip()
    if re.fullmatch(r"-?\d+(\s*,\s*-?\d+){3}", text):
        words = signed_words([int(part) for part in text.split(",")])
        packed: NDArray[np.uint8] = from_words(np.array([words], dtype=np.int64), bits)[0]
        return packed
    digits = re.sub(r"^(0[xX]|\\x)", "", text)
    if len(digits) == bits and re.fullmatch(r"[01]+", digits):
        return np.packbits(np.frombuffer(digits.encode(), dtype=np.uint8) - ord("0"))
    if not re.fullmatch(r"[0-9a-fA-F]+", digits):
        raise InvalidCode(f"{text!r} is neither hex digits, a bit string nor four words.")
    if len(digits) * 4 != bits:
        raise WrongWidth(
            f"A code of {bits} bits has {bits // 4} hex digits or {bits} binary ones; "
            f"got {len(digits)} digits."
        )
    return np.frombuffer(bytes.fromhex(digits + "0" * (len(digits) % 2)), dtype=np.uint8)


def parse_all(texts: Sequence[str], bits: int) -> NDArray[np.uint8]:
    """Read many codes from their texts, as `parse` reads one; quickly where all are hex or bits.

    Returns:
        uint8 [N, ceil(L/8)].

    Raises:
        InvalidCode, WrongWidth: see `parse`.
    """
    size = packed_size(bits)
    lengths = set(map(len, texts))
    joined = "".join(texts)
    if lengths == {bits // 4} and joined.isalnum():
        with suppress(ValueError):
            padded = joined if bits % 8 == 0 else "0".join([*texts, ""])
            return np.frombuffer(bytes.fromhex(padded), dtype=np.uint8).reshape(-1, size)
    if lengths == {bits} and bits > MIN_BITS and joined.isascii():
        digits = np.frombuffer(joined.encode(), dtype=np.uint8) - ord("0")
        if (digits <= 1).all():
            return np.packbits(digits.reshape(-1, bits), axis=1)
    rows = [parse(text, bits) for text in texts]
    return np.stack(rows) if rows else np.empty((0, size), dtype=np.uint8)


def to_hex(packed: NDArray[np.uint8], bits: int) -> str:
    """The L/4 hex digits of one packed code uint8 [ceil(L/8)]."""
    return packed.tobytes().hex()[: check_bits(bits) // 4]


def hamming_distances(queries: NDArray[np.uint8], database: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Hamming distances between packed codes, by brute force.

    Args:
        queries: uint8 [Q, B].
        database: uint8 [N, B].

    Returns:
        int32 [Q, N].
    """
    if queries.shape[1:] != database.shape[1:]:
        raise WrongWidth("The two sets of codes have different widths.")
    distances = np.empty((len(queries), len(database)), dtype=np.int32)
    for row, query in zip(distances, queries, strict=True):
        row[:] = np.bitwise_count(database ^ query).sum(axis=1, dtype=np.int32)
    return distances


def as_packed(codes: ArrayLike | Sequence[str], bits: int) -> NDArray[np.uint8]:
    """Accept codes in any of their forms: packed uint8 [N, ceil(L/8)], words [N, 4], texts; or one
    of these, also as bytes.

    Returns:
        uint8 [N, ceil(L/8)].

    Raises:
        InvalidCode, WrongWidth: see `check_packed`, `from_words` and `parse`.
    """
    if isinstance(codes, str):
        return parse(codes, bits)[None, :]
    if isinstance(codes, bytes | bytearray | memoryview):
        return check_packed(np.frombuffer(codes, dtype=np.uint8)[None, :], bits)
    if isinstance(codes, tuple) and all(isinstance(word, int) for word in codes):
        codes = signed_words(codes)
    array = np.asarray(codes)
    if array.dtype.kind not in "iuU":
        raise InvalidCode(
            "A code is a text (hex digits or bits), four words, or packed bytes (uint8); "
            f"got {type(codes).__name__}."
        )
    if array.dtype.kind == "U":
        return np.stack([parse(str(text), bits) for text in array.ravel()])
    if array.ndim == 1:
        array = array[None, :]
    if array.dtype == np.uint8:
        return check_packed(array, bits)
    if array.dtype.kind == "u":
        array = array.astype(np.uint64).view(np.int64)
    return from_words(array, bits)
