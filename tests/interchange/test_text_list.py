"""Codes as hex or bits, one to a line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retrieval_db import codes
from retrieval_db.errors import FormatError, InvalidCode, RetrievalError, WrongWidth
from tests import example
from tests.code_files import read, write


class TestList:
    """One code a line, as perceptual hashes are usually kept."""

    @given(st.sampled_from(range(4, 257, 4)), st.integers(1, 20), st.randoms())
    def test_hex_and_bits(self, bits: int, rows: int, chosen: Any) -> None:
        packed = example.random_codes("uniform", rows, bits, chosen.randrange(1000))
        hexes = [codes.to_hex(row, bits) for row in packed]
        assert (codes.parse_all(hexes, bits) == packed).all()
        assert (codes.parse_all([f"0x{text.upper()}" for text in hexes], bits) == packed).all()
        binary = ["".join(map(str, row)) for row in codes.unpack(packed, bits).tolist()]
        if bits > 4:
            assert (codes.parse_all(binary, bits) == packed).all()

    def test_pdq_hashes(self, data_dir: Path) -> None:
        for name, count in (("haystack", 1350), ("needles", 100)):
            file = data_dir / "codes" / "pdq" / f"{name}.txt"
            found = read(file)
            assert (found.bits, len(found)) == (256, count)
            lines = file.read_text().split()
            assert [codes.to_hex(row, 256) for row in found.codes] == lines
            assert list(found.paths) == [str(row) for row in range(count)]

    def test_paths_behind_the_codes(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.txt", "\ufeff# mine\n00ff, a b.jpg\r\n\nff00\tä.jpg\n0xabcd x\n")
        found = read(file)
        assert list(found.paths) == ["a b.jpg", "ä.jpg", "x"]
        assert found.codes.tolist() == [[0, 255], [255, 0], [0xAB, 0xCD]]

    def test_paths_in_another_file(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.txt", "0101\n1111\n")
        names = write(tmp_path / "names.txt", "x.jpg\ny.jpg\n")
        found = read(file, paths=names, bits=16)
        assert (found.bits, list(found.paths)) == (16, ["x.jpg", "y.jpg"])
        assert read(file).bits == 4

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("00ff\n00f\n", WrongWidth, "Line 2: A code of 16 bits"),
            ("00ff a\n00ff\n", FormatError, "Line 2 has no path, unlike the first"),
            ("00ff\n00ff a\n", FormatError, "Line 2 has a path"),
            ("00ff\nhello\n", FormatError, "Line 2 does not begin with a code"),
            ("00ff\n\n  xyz\n", FormatError, "Line 3"),
            ("f" * 68, InvalidCode, "from 4 to 256"),
        ],
    )
    def test_wrong_lines(
        self, tmp_path: Path, text: str, error: type[RetrievalError], message: str
    ) -> None:
        with pytest.raises(error, match=message) as caught:
            read(write(tmp_path / "a.txt", text))
        assert "a.txt" in str(caught.value)
