"""Codes as CSV, as other programs and Excel write it."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from retrieval_db import codes
from retrieval_db.errors import FormatError, RetrievalError, UsageError, WrongWidth
from retrieval_db.interchange import csv_table, open_source
from tests.code_files import read, write


class TestCsv:
    """A header and a line for each image."""

    def test_forms_that_other_programs_write(self, tmp_path: Path) -> None:
        text = (
            ('\ufeffPath;Code;Label;size\r\n"a;""b"".jpg";00ff;cat;9\r\nc\r\n\r\nd.jpg;ff00;;8\r\n')
            .replace("c\r\n\r\nd", '"c\r\n\r\nd')
            .replace("d.jpg", 'd.jpg"')
        )
        source = open_source(write(tmp_path / "a.csv", text))
        (found,) = source.batches(10)
        assert list(found.paths) == ['a;"b".jpg', "c\r\n\r\nd.jpg"]
        assert found.labels == ["cat", None]
        assert source.remarks == ["Columns that are left out: size."]

    def test_words(self, tmp_path: Path) -> None:
        text = "id,path,code_1,code_2,code_3,code_4\n1,a,1,2,3,4294967295\n2,b,0,0,0,0\n"
        found = read(write(tmp_path / "a.csv", text))
        assert codes.to_words(found.codes, 128).tolist() == [[1, 2, 3, 2**32 - 1], [0] * 4]
        assert found.encoder is None

    def test_everything(self, tmp_path: Path) -> None:
        text = (
            "path,code,content_sha256,metadata,feature,encoder\n"
            f'a,00ff,{"ab" * 32},"{{""year"": 2024}}","[0.5,-1]",mine\nb,ff00,,,,mine\n'
        )
        found = read(write(tmp_path / "a.csv", text))
        assert found.metadata == ['{"year": 2024}', None]
        assert found.known_hashes.tolist() == found.known_features.tolist() == [True, False]
        assert found.features is not None
        assert found.features[0].tolist() == [0.5, -1]
        assert found.encoder == "mine"

    @pytest.mark.parametrize(
        ("text", "error", "message"),
        [
            ("path,code\na,00ff,x\n", FormatError, "Line 2 has 3 cells, not 2"),
            ('path,code\n"a,00ff\n', FormatError, "unexpected end of data"),
            ("path,code\na,00ff\nb,00f\n", WrongWidth, "Code 1: A code of 16 bits"),
            ("path,code\na,\n", FormatError, "holds no codes"),
            ("path,code_1,code_2,code_3,code_4\na,1,2,3,x\n", FormatError, "no integer"),
            ("path,code_1,code_2,code_3,code_4\na,1,2,3,4294967296\n", WrongWidth, "--bits"),
            ("path,code,encoder\na,00ff,x\nb,00ff,y\n", FormatError, "several encoders"),
            ("path,code,content_sha256\na,00ff,abc\n", FormatError, "64 hex digits"),
            ("path,code,feature\na,00ff,[1;2]\n", FormatError, "Code 0: a feature is numbers"),
            (f"path,code,feature\na,00ff,[1{'0' * 400}]\n", FormatError, "Code 0: a feature is"),
            (f"path,code,feature\na,00ff,{'[' * 100_000}\n", FormatError, "Code 0: a feature is"),
            ('path,code,feature\na,00ff,[1]\nb,00ff,"[1,2]"\n', FormatError, "different numbers"),
        ],
    )
    def test_wrong_cells(
        self, tmp_path: Path, text: str, error: type[RetrievalError], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            read(write(tmp_path / "a.csv", text))

    def test_excels_usual_encoding(self, tmp_path: Path) -> None:
        for rows in (1, 1000):
            text = "path;code\n" + "a.jpg;00ff\n" * rows + "Müller.jpg;00ff\n"
            (tmp_path / "a.csv").write_text(text, encoding="latin-1")
            with pytest.raises(FormatError, match=r"a\.csv.*not UTF-8\. Save it as CSV UTF-8"):
                read(tmp_path / "a.csv")

    def test_a_line_without_an_end(self, tmp_path: Path) -> None:
        """It is not held whole, however small the file is."""
        line = b"a," * (csv_table.MAX_LINE // 2) + b"a"
        for text in (b"code," + line, b"code,path\n00ff," + line):
            (tmp_path / "a.csv").write_bytes(gzip.compress(text, 1))
            with pytest.raises(FormatError, match="is longer than 16,777,216 characters"):
                read(tmp_path / "a.csv", "csv")
        write(tmp_path / "b.txt", "00ff " + "x" * (1 << 16))
        with pytest.raises(FormatError, match="Line 1 is longer"):
            read(tmp_path / "b.txt")
        write(tmp_path / "c.txt", "00ff\n")
        with pytest.raises(FormatError, match="Line 1 is longer"):
            read(tmp_path / "c.txt", paths=tmp_path / "b.txt")

    def test_its_own_paths(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.csv", "code,path\n00ff,a\n")
        with pytest.raises(UsageError, match="leave --paths out"):
            read(file, paths=file)
        bare = write(tmp_path / "b.csv", "code\n00ff\nff00\n")
        assert list(read(bare).paths) == ["0", "1"]


def test_features_may_begin_late(tmp_path: Path) -> None:
    rows = [*(f"{row},00ff," for row in range(9)), 'x,00ff,"[1,2]"']
    found = read(write(tmp_path / "a.csv", "\n".join(["path,code,feature", *rows])))
    assert found.known_features.tolist() == [False] * 9 + [True]
    assert found.features is not None
    assert found.features[9].tolist() == [1, 2]
