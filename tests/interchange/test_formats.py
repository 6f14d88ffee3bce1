"""Codes as CSV, Parquet, lists of hex or bits, and how a file's format is recognised."""

from __future__ import annotations

import bz2
import datetime
import gzip
import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import retrieval_db
from retrieval_db import CodeSet, codes, write_npz
from retrieval_db.console import formats_commands
from retrieval_db.errors import (
    FormatError,
    InvalidCode,
    MissingExtra,
    RetrievalError,
    UsageError,
    WrongWidth,
)
from retrieval_db.exporting import WRITERS
from retrieval_db.interchange import (
    SOURCES,
    Settings,
    csv_table,
    joined,
    open_source,
    parquet,
    recognised,
)
from retrieval_db.loading import bulk
from tests import command, example, old_files


def read(file: Path, kind: str | None = None, **options: Any) -> CodeSet:
    """A file's codes, read in small batches."""
    return joined(list(open_source(file, Settings(**options), kind).batches(7)))


def write(file: Path, text: str) -> Path:
    file.write_text(text, encoding="utf-8", newline="")
    return file


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


class TestParquet:
    """What other programs write."""

    def test_columns_of_other_types(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = arrow.table(
            {
                "path": arrow.array(["a", "b"], arrow.large_string()),
                "code": ["00ff", "ff00"],
                "label": arrow.array([3, None], arrow.int16()),
                "metadata": arrow.array([{"year": 2024}, None]),
                "feature": arrow.array([[0.5, 1.0], None], arrow.list_(arrow.float32())),
                "content_sha256": arrow.array([bytes(range(32)), None], arrow.binary()),
                "width": [640, 480],
            }
        )
        pq.write_table(table, tmp_path / "a.parquet", row_group_size=1)
        source = open_source(tmp_path / "a.parquet")
        (found,) = source.batches(10)
        assert (list(found.paths), found.labels, found.bits) == (["a", "b"], ["3", None], 16)
        assert found.metadata == ['{"year": 2024}', None]
        assert found.known_features.tolist() == found.known_hashes.tolist() == [True, False]
        assert found.features is not None
        assert found.features[0].tolist() == [0.5, 1.0]
        assert source.remarks == ["Columns that are left out: width."]

    def test_words_and_bytes(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        words = {f"code_{number}": [number, 0] for number in (1, 2, 3, 4)}
        pq.write_table(arrow.table(words | {"path": ["a", "b"]}), tmp_path / "w.parquet")
        assert codes.to_words(read(tmp_path / "w.parquet").codes, 128)[0].tolist() == [1, 2, 3, 4]
        pq.write_table(arrow.table({"code": [b"ab", b"cd"]}), tmp_path / "b.parquet")
        found = read(tmp_path / "b.parquet")
        assert (found.bits, list(found.paths)) == (16, ["0", "1"])

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"path": ["a"]}, "no column of codes"),
            ({"path": ["a", None], "code": [b"ab", b"cd"]}, "path has rows without a value"),
            ({"path": ["a", "b"], "code": [b"ab", b"c"]}, "must hold 2 bytes"),
            ({"path": ["a"], "code": [b"ab"], "feature": [[1]]}, "must be floats"),
            ({"path": ["a"], "code": [b"ab"], "feature": [[1.0, None]]}, "null"),
            ({"path": ["a"], "code": [b"ab"], "content_sha256": [b"x"]}, "32 bytes"),
            ({"path": ["a"], "code": [1.5]}, "code"),
            ({"path": [1.5], "code": [b"ab"]}, "path must hold texts, not float"),
            ({"path": [True], "code": [b"ab"]}, "path must hold texts, not bool"),
            ({"path": [b"\xff"], "code": [b"ab"]}, "path has bytes that are not UTF-8"),
            ({"code": [b"ab"], "label": [[1]]}, "label must hold texts, not list"),
            ({"code": [b"ab"], "feature": [1.5]}, "lists of floats, not double"),
            ({"code": [b"ab"], "feature": ["[1.5]"]}, "lists of floats, not string"),
            ({"code": [b"ab"], "metadata": [{"a": b"x"}]}, "not JSON serializable"),
            ({"code": [b"ab"], "metadata": [{"a": datetime.date.today()}]}, "not JSON"),
            ({"code": [b"ab"], "content_sha256": [7]}, "32 bytes"),
        ],
    )
    def test_wrong_columns(self, tmp_path: Path, columns: Any, message: str) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        pq.write_table(arrow.table(columns), tmp_path / "a.parquet")
        with pytest.raises(RetrievalError, match=message) as caught:
            read(tmp_path / "a.parquet")
        assert "a.parquet" in str(caught.value)

    def test_texts_as_bytes(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        columns = {
            "path": ["ä.jpg".encode()],
            "code": [b"ab"],
            "label": arrow.array([b"cat"], arrow.large_binary()),
            "metadata": [b'{"year": 2024}'],
        }
        pq.write_table(arrow.table(columns), tmp_path / "a.parquet")
        found = read(tmp_path / "a.parquet")
        assert (found.paths, found.labels) == (["ä.jpg"], ["cat"])
        assert found.metadata == ['{"year": 2024}']

    def test_two_columns_of_one_name(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = arrow.table([arrow.array([b"ab"])] * 2, names=["code", "code"])
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(FormatError, match="several columns called code"):
            read(tmp_path / "a.parquet")

    def test_a_column_without_a_value(self, tmp_path: Path) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = arrow.table({"code": [b"ab"], "feature": arrow.nulls(1), "label": arrow.nulls(1)})
        pq.write_table(table, tmp_path / "a.parquet")
        found = read(tmp_path / "a.parquet")
        assert (found.features, found.labels) == (None, [None])

    @pytest.mark.parametrize(
        "head", ['{"bits": "16"}', '{"config": {"kind": "network"}}', '{"root": 7}', "[]", "x"]
    )
    def test_a_wrong_head(self, tmp_path: Path, head: str) -> None:
        arrow = pytest.importorskip("pyarrow")
        import pyarrow.parquet as pq

        table = arrow.table({"code": [b"ab"]}).replace_schema_metadata({"retrieval_db": head})
        pq.write_table(table, tmp_path / "a.parquet")
        with pytest.raises(FormatError, match="metadata under `retrieval_db` cannot be read"):
            read(tmp_path / "a.parquet")

    def test_damaged(self, tmp_path: Path) -> None:
        pytest.importorskip("pyarrow")
        (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
        with pytest.raises(FormatError, match="not a Parquet file"):
            read(tmp_path / "a.parquet")

    def test_without_pyarrow(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "a.parquet").write_bytes(b"PAR1" + bytes(100))
        monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match=r"retrieval-db\[formats\]"):
            read(tmp_path / "a.parquet")
        with pytest.raises(MissingExtra), parquet.parquet_writer(tmp_path / "b.parquet"):
            pass
        assert [file.name for file in tmp_path.iterdir()] == ["a.parquet"]


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


def test_the_command_knows_every_format() -> None:
    assert [kind.value for kind in formats_commands.FormatIn] == list(SOURCES)
    assert [kind.value for kind in formats_commands.FormatOut] == list(WRITERS)


class TestCommand:
    """`retrieval-db load`, with all that may be said to it."""

    @pytest.fixture
    def url(self, database_url: str, monkeypatch: pytest.MonkeyPatch) -> str:
        monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
        return database_url

    def test_a_dry_run_touches_no_database(self, tmp_path: Path) -> None:
        file = tmp_path / "img.sql"
        file.write_bytes(
            old_files.dump([("/SUN397/m/house/a.jpg", 1, 2, 3, 4), (None, 1, 2, 3, 4)])
        )
        outcome = command.succeed("load", file, "--dry-run", "--labels", "folder")
        assert f"{file}: mysql, 1 codes of 128 bits; 1 labels, 0 content hashes" in outcome.out
        assert "/SUN397/m/house/a.jpg" in outcome.out
        assert "00000001000000020000000300000004" in outcome.out
        assert "house" in outcome.out
        assert "1 rows without a path or code are left out." in outcome.err
        assert "give --encoder NAME" in outcome.err
        outcome = command.succeed("load", file, "--dry-run", "--json", "-e", "old")
        assert json.loads(outcome.out) == {
            "file": str(file), "format": "mysql", "encoder": "old", "bits": 128, "rows": 1,
            "labels": 0, "hashes": 0, "metadata": 0, "features": 0,
            "first": [{"path": "/SUN397/m/house/a.jpg", "label": None,
                       "code": "00000001000000020000000300000004"}],
            "remarks": ["1 rows without a path or code are left out."],
        }  # fmt: skip

    def test_every_format(self, url: str, tmp_path: Path) -> None:
        rows = [(f"/a/{row % 3}/{row}.jpg", row, 2**32 - 1, 3, 4) for row in range(50)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows))
        (tmp_path / "pickle").write_bytes(pickle.dumps([row[1:] for row in rows]))
        write(tmp_path / "paths", "\n".join(row[0] for row in rows))
        header = "path,code_1,code_2,code_3,code_4\n"
        write(tmp_path / "csv", header + "".join(",".join(map(str, row)) + "\n" for row in rows))
        hexes = ["".join(f"{word:08x}" for word in row[1:]) for row in rows]
        write(tmp_path / "list", "\n".join(hexes))
        write(tmp_path / "labels", "path,label\n/a/1/1.jpg,one\n")
        with_paths = ("--paths", tmp_path / "paths")
        for name, more in {
            "dump": ("--labels", "folder"), "pickle": with_paths, "csv": (),
            "list": (*with_paths, "--labels", tmp_path / "labels"),
        }.items():  # fmt: skip
            outcome = command.succeed("load", tmp_path / name, "-e", name, *more)
            assert outcome.out.startswith(f"{name}: 50 new, 0 updated in "), name
        with retrieval_db.connect(url) as db:
            for name in ("dump", "pickle", "csv", "list"):
                found = db.connection.execute(
                    "SELECT path, code_1, code_2, code_3, code_4 FROM images JOIN encoders ON "
                    "encoders.id = encoder_id WHERE name = %s ORDER BY images.id",
                    [name],
                ).fetchall()
                assert found == rows, name
            labels: dict[str, list[str]] = dict(
                db.connection.execute(
                    "SELECT name, array_agg(DISTINCT label) FROM images JOIN encoders ON "
                    "encoders.id = encoder_id WHERE label IS NOT NULL GROUP BY name"
                ).fetchall()
            )
        assert labels == {"dump": ["0", "1", "2"], "list": ["one"]}

    def test_nothing_is_written_of_a_file_with_an_error_at_its_end(
        self, url: str, tmp_path: Path
    ) -> None:
        rows = [(f"{row}.jpg", 1, 2, 3, 4) for row in range(100)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows) + b"INSERT INTO img VALUES (1,'a'")
        outcome = command.run("load", tmp_path / "dump", "-e", "old")
        assert outcome.code == 1
        assert "cut off" in outcome.err
        with retrieval_db.connect(url) as db:
            assert db.encoders() == []

    def test_an_interrupted_load_is_continued(
        self, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(bulk, "BATCH", 10)
        rows = [(f"{row}.jpg", row, 2, 3, 4) for row in range(45)]
        (tmp_path / "dump").write_bytes(old_files.dump(rows, at_once=7))

        def stop(rows: int) -> None:
            raise KeyboardInterrupt

        with retrieval_db.connect(url) as db:
            with pytest.raises(KeyboardInterrupt):
                db.load(open_source(tmp_path / "dump"), encoder="old", progress=stop)
            assert db.connection.execute("SELECT count(*) FROM images").fetchone() == (10,)
            outcome = command.succeed("load", tmp_path / "dump", "-e", "old")
            assert outcome.out.startswith("old: 35 new, 10 updated")
            found = db.connection.execute("SELECT path, code_1 FROM images ORDER BY id").fetchall()
        assert found == [row[:2] for row in rows]

    def test_paths_that_come_again_are_said(self, url: str, tmp_path: Path) -> None:
        file = write(tmp_path / "a", "00ff a\nff00 a\nffff b\n")
        outcome = command.succeed("load", file, "-e", "old")
        assert outcome.out.startswith("old: 2 new, 0 updated")
        assert "1 row has a path that comes again: its last code counts." in outcome.err
        with retrieval_db.connect(url) as db:
            found = db.connection.execute("SELECT path, code_1 FROM images ORDER BY id").fetchall()
        assert found == [("a", 15), ("b", 15)]

    @pytest.mark.parametrize(
        ("code", "arguments", "message"),
        [
            (2, ["--bits", "13"], "multiple of 4"),
            (2, ["--format", "xml"], "xml"),
            (1, ["--format", "mysql"], "no INSERTs"),
            (2, [], "give --encoder NAME"),
            (1, ["-e", "x", "--labels", "nowhere.csv"], "nowhere.csv"),
            (1, ["-e", "x", "--paths", "nowhere"], "There is no file nowhere"),
        ],
    )
    def test_wrong_usage(
        self, url: str, tmp_path: Path, code: int, arguments: list[str], message: str
    ) -> None:
        file = write(tmp_path / "a", "00ff\n")
        outcome = command.run("load", file, *arguments)
        assert message in outcome.err
        assert outcome.code == code


def test_features_may_begin_late(tmp_path: Path) -> None:
    rows = [*(f"{row},00ff," for row in range(9)), 'x,00ff,"[1,2]"']
    found = read(write(tmp_path / "a.csv", "\n".join(["path,code,feature", *rows])))
    assert found.known_features.tolist() == [False] * 9 + [True]
    assert found.features is not None
    assert found.features[9].tolist() == [1, 2]


def test_a_list_of_hashes_can_be_asked_for(
    database_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_URL", database_url)
    write(tmp_path / "haystack.txt", "00ff a\nff00 b\n00fe c\n")
    write(tmp_path / "needles.txt", "00ff\n")
    command.succeed("load", tmp_path / "haystack.txt", "-e", "hashes")
    outcome = command.succeed(
        "search", "--codes", tmp_path / "needles.txt", "-e", "hashes", "-k", "2", "--json"
    )
    (answer,) = json.loads(outcome.out)
    assert [(hit["path"], hit["distance"]) for hit in answer["hits"]] == [("a", 0), ("c", 1)]
