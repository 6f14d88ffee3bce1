"""Packing of hash codes over all widths and the full range of words."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from retrieval_db import codes
from retrieval_db.errors import InvalidCode, WrongWidth

WIDTHS = range(4, 257, 4)


@st.composite
def bit_rows(draw: st.DrawFn) -> NDArray[np.uint8]:
    bits = draw(st.sampled_from(WIDTHS))
    rows = draw(st.lists(st.integers(0, 2**bits - 1), min_size=1, max_size=5))
    text = [format(row, f"0{bits}b") for row in rows]
    return np.array([[int(digit) for digit in row] for row in text], dtype=np.uint8)


@given(bit_rows())
def test_words_hold_the_bits_most_significant_first(bits: NDArray[np.uint8]) -> None:
    length = bits.shape[1]
    packed = np.packbits(bits, axis=1)
    words = codes.to_words(packed, length)
    for row, four in zip(bits, words.tolist(), strict=True):
        text = "".join(map(str, row))
        quarter = length // 4
        for number, word in enumerate(four):
            unsigned = int(text[number * quarter : (number + 1) * quarter], 2)
            assert word == (unsigned - 2**64 if unsigned >= 2**63 else unsigned)
    assert (codes.from_words(words, length) == packed).all()
    assert (codes.unpack(packed, length) == bits).all()


@given(bit_rows())
def test_every_text_form_reads_back(bits: NDArray[np.uint8]) -> None:
    length = bits.shape[1]
    packed = np.packbits(bits, axis=1)[0]
    words = codes.words_of(packed, length)
    for text in (
        codes.to_hex(packed, length),
        "0x" + codes.to_hex(packed, length).upper(),
        "".join(map(str, bits[0])),
        ", ".join(map(str, words)),
        ",".join(str(word % 2**64) for word in words),
    ):
        assert (codes.parse(text, length) == packed).all()


@given(bit_rows(), bit_rows())
def test_hamming_distance_counts_differing_bits(
    first: NDArray[np.uint8], second: NDArray[np.uint8]
) -> None:
    length = min(first.shape[1], second.shape[1])
    a, b = first[:, :length], second[:, :length]
    expected = (a[:, None, :] != b[None, :, :]).sum(axis=2)
    assert (
        codes.hamming_distances(np.packbits(a, axis=1), np.packbits(b, axis=1)) == expected
    ).all()


def test_zero_gives_a_zero_bit() -> None:
    assert codes.unpack(codes.binarize([[0.0, -0.0, 1e-30, -1.0]]), 4).tolist() == [[0, 0, 1, 0]]


def test_nan_is_refused() -> None:
    with pytest.raises(InvalidCode, match="NaN"):
        codes.binarize([[1.0, np.nan, 0.0, 1.0]])


@pytest.mark.parametrize("bits", [0, 3, 6, 260, -4])
def test_impossible_widths_are_refused(bits: int) -> None:
    with pytest.raises(InvalidCode, match="multiple of 4"):
        codes.check_bits(bits)


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("ff", WrongWidth),
        ("0" * 15, WrongWidth),
        ("xyz", InvalidCode),
        ("1,2,3", InvalidCode),
        ("1,2,3,65536", WrongWidth),
        ("-1,0,0,0", WrongWidth),
        ("1,2,3,99999999999999999999", InvalidCode),
    ],
)
def test_texts_that_are_no_codes_of_64_bits(text: str, error: type[Exception]) -> None:
    with pytest.raises(error):
        codes.parse(text, 64)


def test_bits_beyond_the_code_are_refused() -> None:
    with pytest.raises(InvalidCode, match="beyond"):
        codes.check_packed(np.array([[0xFF, 0xFF]], dtype=np.uint8), 12)


def test_the_mysql_layout_of_128_bits() -> None:
    """The four unsigned 32-bit words of the old table, bit 0 first."""
    words = np.array([[4076301309, 917904382, 1211050903, 2286664558]], dtype=np.int64)
    packed = codes.from_words(words, 128)
    assert packed.tobytes() == b"".join(int(w).to_bytes(4, "big") for w in words[0])
