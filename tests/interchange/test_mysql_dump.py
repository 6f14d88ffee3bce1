"""Dumps of the MySQL era, against a writer of literals that shares no line with the reader."""

from __future__ import annotations

import contextlib
import gzip
import io
import lzma
import random
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_db import codes
from retrieval_db.errors import FormatError, RetrievalError, UsageError, WrongWidth
from retrieval_db.interchange import Settings, mysql_lexer, open_source, recognised
from tests import old_files
from tests.old_files import OldRow

NEEDED = ("path", "code_1", "code_2", "code_3", "code_4")
EXAMPLE = (
    b"INSERT INTO `img` VALUES (10000,'/SUN397/m/manufactured_home/sun_bwnvkpvdgnxhkjst.jpg',"
    b"4076301309,917904382,1211050903,2286664558);\n"
)

words = st.integers(0, 2**32 - 1)
paths = st.text(st.characters(codec="utf-8"), max_size=30) | st.sampled_from(
    ["it's", '"', "\\", "\\'", "'", "''", "%_\\%\\_", "\n\r\t\0\x1a\b", "),(", ";", "--", "/* */"]
)
old_rows = st.lists(st.tuples(st.none() | paths, words, words, words, words), max_size=12)


def read(data: bytes, table: str = "img") -> list[OldRow]:
    """What the reader finds, in the order of the needed columns."""
    dump = mysql_lexer.Dump(io.BytesIO(data), table, NEEDED)
    found = []
    for rows in dump.rows():
        places = [dump.found.index(name) for name in NEEDED]
        for row in rows:
            path = mysql_lexer.content(row[places[0]])
            numbers = [mysql_lexer.integer(row[place]) for place in places[1:]]
            found.append((None if path is None else path.decode(), *numbers))
    return found  # type: ignore[return-value]


@settings(deadline=None, max_examples=300)
@given(
    old_rows,
    st.randoms(use_true_random=False),
    st.integers(1, 5),
    st.sampled_from([600, 1000, 1 << 16]),
)
def test_whatever_is_written_is_read(
    rows: list[OldRow], chosen: random.Random, at_once: int, head: int
) -> None:
    """In blocks of every size, so that each literal, comment and statement is cut somewhere."""
    style = old_files.Style(chosen)
    data = old_files.dump(rows, style, at_once=at_once)
    with mock.patch.multiple(mysql_lexer, BLOCK=chosen.randint(1, 40), MAX_HEAD=head):
        assert read(data) == rows


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(paths, words, words, words, words), min_size=1, max_size=4), st.data())
def test_a_dump_that_is_cut_off_gives_no_wrong_row(rows: list[OldRow], data: st.DataObject) -> None:
    whole = old_files.dump(rows, at_once=2)
    cut = data.draw(st.integers(0, len(whole)))
    try:
        found = read(whole[:cut])
    except FormatError:
        return
    # Between statements a cut cannot be seen.
    assert found == rows[: len(found)]
    assert len(found) % 2 == 0 or len(found) == len(rows)


@given(st.binary(max_size=200))
def test_no_bytes_crash_the_reader(junk: bytes) -> None:
    for data in (junk, EXAMPLE + junk, EXAMPLE[:40] + junk):
        with contextlib.suppress(FormatError):
            read(data)


def test_the_row_of_the_old_systems_readme(tmp_path: Path) -> None:
    (tmp_path / "img.sql").write_bytes(EXAMPLE)
    (batch,) = open_source(tmp_path / "img.sql").batches(10)
    assert batch.paths == ["/SUN397/m/manufactured_home/sun_bwnvkpvdgnxhkjst.jpg"]
    wanted = (4076301309, 917904382, 1211050903, 2286664558)
    assert codes.words_of(batch.codes[0], 128) == wanted


def test_batches_and_compression(tmp_path: Path) -> None:
    rows: list[OldRow] = [(f"a/{row}'.jpg", row, 2, 3, 2**32 - 1) for row in range(2500)]
    data = old_files.dump(rows, at_once=700)
    files = {"d.sql": data, "d.gz": gzip.compress(data), "d.xz": lzma.compress(data)}
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
        assert recognised(tmp_path / name) == "mysql"
        source = open_source(tmp_path / name)
        for _ in range(2):
            batches = list(source.batches(1000))
            assert [len(batch) for batch in batches] == [1000, 1000, 500]
            assert [path for batch in batches for path in batch.paths] == [row[0] for row in rows]
            assert codes.words_of(batches[2].codes[499], 128) == rows[-1][1:]
    (tmp_path / "cut.gz").write_bytes(files["d.gz"][:-300])
    with pytest.raises(FormatError, match=r"cut\.gz"):
        list(open_source(tmp_path / "cut.gz").batches(1000))


def test_rows_without_path_or_code_are_counted(tmp_path: Path) -> None:
    rows: list[OldRow] = [
        ("a", 1, 2, 3, 4),
        (None, 1, 2, 3, 4),
        ("b", 1, None, 3, 4),
        ("", 1, 2, 3, 4),
    ]
    (tmp_path / "d.sql").write_bytes(old_files.dump(rows))
    source = open_source(tmp_path / "d.sql")
    (batch,) = source.batches(10)
    assert list(batch.paths) == ["a"]
    assert source.remarks == ["3 rows without a path or code are left out."]


def test_a_text_far_larger_than_a_block_is_read_over() -> None:
    blob = b"INSERT INTO blobs VALUES ('" + b"\\'x''" * 200_000 + b"');\n"
    with mock.patch.object(mysql_lexer, "BLOCK", 4096):
        dump = mysql_lexer.Dump(io.BytesIO(blob + EXAMPLE), "img", NEEDED)
        sizes = []
        for rows in dump.rows():
            sizes.append(len(rows))
            assert len(dump._data) < 200_000
    assert sizes == [1]


def test_a_label_is_taken_along_and_another_table_can_be_named(tmp_path: Path) -> None:
    file = tmp_path / "d.sql"
    file.write_bytes(
        b"CREATE TABLE pictures (label varchar(9), code_4 bigint, code_3 bigint, code_2 bigint, "
        b"code_1 bigint, Path text);\n"
        b"insert into pictures values ('cat',4,3,2,1,'a'),(NULL,8,7,6,5,'b');"
    )
    with pytest.raises(FormatError, match=r"no rows of the table img; --table .*: pictures"):
        list(open_source(file).batches(10))
    (batch,) = open_source(file, Settings(table="pictures")).batches(10)
    assert (list(batch.paths), batch.labels) == (["a", "b"], ["cat", None])
    assert codes.to_words(batch.codes, 128).tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]


@pytest.mark.parametrize("name", [b"utf8", b"utf8mb3", b"latin1", b"'latin1'"])
def test_character_sets(tmp_path: Path, name: bytes) -> None:
    encoding = "cp1252" if b"latin1" in name else "utf-8"
    text = b"SET NAMES " + name + b";\nINSERT INTO img VALUES (1,'" + "äö€".encode(encoding)
    (tmp_path / "d.sql").write_bytes(text + b"',1,2,3,4);")
    (batch,) = open_source(tmp_path / "d.sql").batches(10)
    assert list(batch.paths) == ["äö€"]


@pytest.mark.parametrize(
    ("text", "error", "message"),
    [
        (b"SET NAMES gbk; INSERT INTO img VALUES (1,'a',1,2,3,4);", FormatError, "utf8mb4"),
        (b"INSERT INTO img VALUES (1,'\xff',1,2,3,4);", FormatError, "not in utf8mb4"),
        (b"INSERT INTO img VALUES (1,'a',1,2,3,4),(2,'b'", FormatError, "cut off"),
        (b"INSERT INTO img VALUES (1,'a',1,2,3);", FormatError, r"6 values \(id, path, code_1"),
        (b"INSERT INTO img VALUES (1,'a',1,2,3,4,5);", FormatError, "At byte 23"),
        (b"INSERT INTO img (id, path) VALUES (1,'a');", FormatError, "no column code_1, code_2"),
        (b"INSERT INTO img SELECT * FROM other;", FormatError, "without VALUES"),
        (b"INSERT INTO img SET path='a';", FormatError, "without VALUES"),
        (b"INSERT INTO 'img' VALUES (1);", FormatError, "cannot be read"),
        (b"INSERT INTO img VALUES (1,'a','x',2,3,4);", FormatError, "'x'.* is not an integer"),
        (b"INSERT INTO img VALUES (1,'a',1.5,2,3,4);", FormatError, "1.5.* is not an integer"),
        (b"INSERT INTO img VALUES (1,'a',4294967296,2,3,4);", WrongWidth, "--bits"),
        (b"INSERT INTO img VALUES (1,'a',18446744073709551616,2,3,4);", WrongWidth, "64 bits"),
        (b"INSERT INTO other VALUES ('a", FormatError, "cut off"),
        (b"-- nothing\n", FormatError, "no INSERTs at all"),
    ],
)
def test_refused(tmp_path: Path, text: bytes, error: type[RetrievalError], message: str) -> None:
    (tmp_path / "d.sql").write_bytes(text)
    with pytest.raises(error, match=message) as caught:
        list(open_source(tmp_path / "d.sql").batches(10))
    assert "d.sql" in str(caught.value)


def test_a_dump_has_its_own_paths(tmp_path: Path) -> None:
    (tmp_path / "d.sql").write_bytes(EXAMPLE)
    with pytest.raises(UsageError, match="leave --paths out"):
        list(open_source(tmp_path / "d.sql", Settings(paths=tmp_path / "p")).batches(10))
