"""Codes as Parquet, as other programs write it."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

import pytest

from retrieval_db import codes
from retrieval_db.errors import FormatError, MissingExtra, RetrievalError
from retrieval_db.interchange import open_source, parquet
from tests.code_files import read


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
