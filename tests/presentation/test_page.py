"""The page: escaped, self-contained, and with SQL that gives the same answer."""

from __future__ import annotations

import base64
import io
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import psycopg
import pytest
from PIL import Image

from retrieval_db import CodeSet, Query, connect, migration
from retrieval_db.presentation import Answer, write_page
from retrieval_db.search import Hit, SearchResult

EVIL = "<script>alert('x')</script>\"&"


class Read(HTMLParser):
    """What a browser would find: elements with their attributes, and the text."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def answer(root: Path, count: int = 1, name: str = "a.png", text: str = "x") -> Answer:
    hits = [Hit(rank, rank, name, text, rank) for rank in range(1, count + 1)]
    result = SearchResult(tuple(hits), text, "coarse", True, 64, 1.5)
    return Answer(text, root / "a.png", (1, 2, 3, 4), result, str(root), text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    Image.new("RGB", (90, 60), "red").save(tmp_path / "a.png")
    Image.new("L", (8, 8), 200).save(tmp_path / "tiny.png")
    return tmp_path


def test_everything_is_escaped(root: Path) -> None:
    evil = answer(root, name=f"{EVIL}.png", text=EVIL)
    page = root / "page.html"
    write_page([evil], page, title=EVIL, introduction=EVIL, facts=[(EVIL, EVIL)])
    read = Read(page)
    assert not read.all("script")
    # Title twice, introduction, fact twice, query, its label, encoder, hit's label and more.
    assert read.text.count(EVIL) >= 9
    assert "search_codes('<script>alert(''x'')</script>\"&', 1, 2, 3, 4, k => 10);" in read.text


def test_it_needs_no_other_file(root: Path) -> None:
    page = root / "page.html"
    write_page([answer(root), answer(root, name="tiny.png")], page)
    read = Read(page)
    images = read.all("img")
    assert len(images) == 4
    for image in images:
        kind, _, data = (image["src"] or "").partition(";base64,")
        assert kind in ("data:image/png", "data:image/jpeg")
        with Image.open(io.BytesIO(base64.b64decode(data))) as decoded:
            decoded.load()
    assert {"link", "script", "iframe"}.isdisjoint(tag for tag, _ in read.elements)
    assert "http" not in page.read_text(encoding="utf-8")
    assert "url(" not in page.read_text(encoding="utf-8")


def test_every_picture_has_a_text(root: Path) -> None:
    gone = answer(root, name="gone.png")
    page = root / "page.html"
    write_page([answer(root, count=3), gone], page)
    read = Read(page)
    assert all(image["alt"] for image in read.all("img"))
    labels = [span["aria-label"] for span in read.all("span") if "aria-label" in span]
    assert labels == ["rank 1, gone.png: file not found"]
    assert "file not found" in read.text


def test_long_answers_and_many_queries_are_capped_with_a_note(root: Path) -> None:
    page = root / "page.html"
    write_page([answer(root, count=25)] * 7, page, limit=2, hits=10)
    read = Read(page)
    assert len(read.all("article")) == 2
    assert len(read.all("li")) == 20
    assert "The first 10 of 25." in read.text
    assert "5 further queries are not shown." in read.text


def test_no_answers_and_no_hits_still_give_a_page(root: Path) -> None:
    page = root / "page.html"
    write_page([], page)
    assert "No queries." in Read(page).text
    write_page([Answer("code", None, (0, 0, 0, 0), answer(root, 0).result, None)], page)
    assert "No image found." in Read(page).text
    assert "no picture: a code" in Read(page).text


def test_a_name_that_is_not_utf_8_does_not_break_the_page(root: Path) -> None:
    strange = answer(root)
    strange = Answer("\udcff.png", root / "\udcff.png", strange.words, strange.result, None)
    page = root / "page.html"
    write_page([strange], page)
    assert "\\xff.png" in Read(page).text


@pytest.mark.parametrize("bits", [48, 256])
def test_the_sql_gives_the_same_answer(database_url: str, root: Path, bits: int) -> None:
    generator = np.random.default_rng(bits)
    packed = generator.integers(0, 256, (200, bits // 8), dtype=np.uint8)
    name = r"o'clock \ back"
    labels = ["it's", "other"] * 100
    items = CodeSet(packed, bits, [f"{row}.png" for row in range(200)], labels, encoder=name)
    # At 256 bits the least bigint, whose sign PostgreSQL reads apart from its digits.
    least = -(1 << 63) if bits == 256 else 0
    with connect(database_url) as db, psycopg.connect(database_url) as client:
        db.load(items)
        for options in ({}, {"k": 3}, {"k": None, "radius": bits // 2}, {"labels": ["it's"]}):
            query = Query((least, 5, 6, 7))
            result = db.search(query, encoder=name, **options)
            found = Answer("q", None, query.words, result, None, options=options)
            assert found.fine_sql is None
            page = root / "page.html"
            write_page([found], page)
            assert found.sql in Read(page).text
            rows = client.execute(found.sql.encode()).fetchall()
            assert [row[1] for row in rows] == [hit.image_id for hit in result.hits]
            assert rows


def test_the_sql_of_the_fine_stage_gives_the_same_answer(database_url: str, root: Path) -> None:
    generator = np.random.default_rng(0)
    packed = generator.integers(0, 256, (300, 4), dtype=np.uint8)
    features = generator.normal(size=(300, 20)).astype(np.float32)
    paths = [f"{row}.png" for row in range(300)]
    with connect(database_url) as db, psycopg.connect(database_url) as client:
        if migration.revisions(db.connection).features is None:
            pytest.skip("this server has no pgvector")
        db.load(CodeSet(packed, 32, paths, features=features, encoder="wide"))
        query = db.query_by_path("17.png")
        options = {"k": 15, "pool": 40, "metric": "l2"}
        result = db.search(query, k=15, pool=40, metric="l2", stage="fine")
        found = Answer("q", None, query.words, result, None, feature=query.feature, options=options)
        assert found.fine_sql is not None
        rows = client.execute(found.fine_sql.encode()).fetchall()
        assert [row[1] for row in rows] == [hit.image_id for hit in result.hits]
        coarse = client.execute(found.sql.encode()).fetchall()
        expected = db.search(query, k=15, stage="coarse").hits
        assert [row[1] for row in coarse] == [hit.image_id for hit in expected]
        write_page([found], root / "page.html")
        assert found.fine_sql in Read(root / "page.html").text
