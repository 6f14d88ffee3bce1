"""How the format of a file is recognised, and a file of any format opened."""

from __future__ import annotations

import bz2
import gzip
import pickle
from pathlib import Path

import numpy as np
import pytest

from retrieval_db import CodeSet, write_npz
from retrieval_db.errors import FormatError, UsageError
from retrieval_db.interchange import Settings, joined, open_source, recognised
from tests import old_files
from tests.code_files import read, write


class TestRecognised:
    """By content, whatever the name."""

    @pytest.mark.parametrize(
        ("kind", "content"),
        [
            ("pickle", pickle.dumps([(1, 2, 3, 4)])),
            ("pickle", pickle.dumps([(1, 2, 3, 4)], 0)),
            ("pickle", pickle.dumps({0: (1, 2, 3, 4)}, 1)),
            ("pickle", pickle.dumps({0: (1, 2, 3, 4)}, 0)),
            ("mysql", old_files.dump([("a", 1, 2, 3, 4)])),
            ("mysql", b"\n\ninsert into img values (1,'a',1,2,3,4);"),
            ("mysql", b"/*M!999999\\- enable the sandbox mode */ \n"),
            ("csv", b"path,code\na,00ff\n"),
            ("csv", b'"code"\n00ff\n'),
            ("csv", b"id\tpath\tcode_1\tcode_2\tcode_3\tcode_4\n"),
            ("list", b"\n# list\n00ff\n"),
            ("list", b"00ff a.jpg\n"),
            ("parquet", b"PAR1"),
            (None, b"hello\n"),
            (None, b""),
            (None, b"\x89PNG\r\n\x1a\n"),
        ],
    )
    def test_content(self, tmp_path: Path, kind: str | None, content: bytes) -> None:
        for name, data in (
            ("a", content),
            ("b", gzip.compress(content)),
            ("c", bz2.compress(content)),
        ):
            file = tmp_path / name
            file.write_bytes(data)
            if kind is None:
                with pytest.raises(FormatError, match="in no format of codes"):
                    recognised(file)
            else:
                assert recognised(file) == kind

    def test_npz(self, tmp_path: Path) -> None:
        write_npz(tmp_path / "a.txt", CodeSet(np.zeros((1, 2), np.uint8), 16, ["a"]))
        assert recognised(tmp_path / "a.txt") == "npz"
        (tmp_path / "b").write_bytes(gzip.compress((tmp_path / "a.txt").read_bytes()))
        with pytest.raises(FormatError, match="unpack it first"):
            open_source(tmp_path / "b")
        with pytest.raises(UsageError, match="leave --paths out"):
            open_source(tmp_path / "a.txt", Settings(paths=tmp_path))

    def test_another_format_can_be_said(self, tmp_path: Path) -> None:
        file = write(tmp_path / "a.txt", "code\n")
        assert len(read(file, "csv", bits=16)) == 0
        with pytest.raises(FormatError, match="Line 1"):
            read(file, "list")
        with pytest.raises(UsageError, match="no format 'xml'; there are: npz, parquet"):
            open_source(file, kind="xml")
        with pytest.raises(FormatError, match="no file"):
            open_source(tmp_path / "nowhere")
        with pytest.raises(FormatError, match="cannot be read: Is a directory"):
            open_source(tmp_path)


def test_what_was_checked_is_what_is_loaded(tmp_path: Path) -> None:
    """A slow source is read once, even if its file changes or goes away."""
    file = write(tmp_path / "a.txt", "00ff a\nff00 b\n")
    source = open_source(file)
    first = list(source.batches(1))
    file.unlink()
    second = list(source.batches(1))
    assert [batch.paths for batch in first] == [batch.paths for batch in second] == [["a"], ["b"]]
    assert (joined(first).codes == joined(second).codes).all()
