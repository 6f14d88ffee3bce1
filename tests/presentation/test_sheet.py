"""The contact sheet: what stands where, and that nothing in a name can break it."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image, ImageColor, ImageFont

from retrieval_db.errors import FormatError
from retrieval_db.presentation import Answer, lettering, sheet, write_sheet
from retrieval_db.search import Hit, SearchResult

COLOURS = ("red", "lime", "blue", "yellow", "cyan", "magenta")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with one square of each colour."""
    for colour in COLOURS:
        Image.new("RGB", (50, 50), colour).save(tmp_path / f"{colour}.png")
    return tmp_path


def answer(root: Path, *names: str, exact: bool = True, label: str | None = None) -> Answer:
    hits = [Hit(rank, rank, name, Path(name).stem, rank) for rank, name in enumerate(names, 1)]
    result = SearchResult(tuple(hits), "phash64", "coarse", exact, 64 if exact else 7, 1.5)
    return Answer("query.png", root / "magenta.png", (1, 2, 3, 4), result, str(root), label)


def drawn(path: Path) -> Image.Image:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return image.convert("RGB")


def centre(number: int, columns: int = 5) -> tuple[int, int]:
    """The middle of a neighbour's picture in the first card."""
    layout = sheet.Layout(columns)
    half = sheet.THUMB // 2
    left = layout.hits_left + number * layout.cell
    return left + half, sheet.HEADER + sheet.HEADLINE + half


def rgb(colour: str) -> tuple[int, ...]:
    return ImageColor.getrgb(colour)


def count(image: Image.Image, colour: str) -> int:
    colours = image.getcolors(image.width * image.height) or []
    return sum(number for number, found in colours if found == rgb(colour))


def test_the_neighbours_stand_in_their_order_beside_the_query(pictures: Path) -> None:
    names = ["blue.png", "red.png", "yellow.png"]
    write_sheet([answer(pictures, *names)], pictures / "sheet.png")
    image = drawn(pictures / "sheet.png")
    found = [image.getpixel(centre(number)) for number in range(3)]
    assert found == [rgb("blue"), rgb("red"), rgb("yellow")]
    query = (sheet.MARGIN + sheet.PADDING + 20, centre(0)[1])
    assert image.getpixel(query) == rgb("magenta")
    assert image.getpixel((query[0] - 20 - sheet.FRAME, query[1])) == rgb(sheet.ACCENT)


def test_more_neighbours_than_columns_take_further_lines(pictures: Path) -> None:
    names = ["red.png"] * 10 + ["blue.png", "lime.png"]
    write_sheet([answer(pictures, *names)], pictures / "sheet.png")
    image = drawn(pictures / "sheet.png")
    x, y = centre(1, columns=10)
    line = sheet.Layout(10).line_height(answer(pictures, *names))
    assert image.getpixel((x, y)) == rgb("red")
    assert image.getpixel((x, y + line)) == rgb("lime")


def test_a_missing_and_a_broken_file_have_placeholders(pictures: Path) -> None:
    (pictures / "broken.png").write_bytes(b"not an image")
    write_sheet([answer(pictures, "gone.png", "broken.png", "red.png")], pictures / "sheet.png")
    image = drawn(pictures / "sheet.png")
    for number in (0, 1):
        x, y = centre(number)
        assert image.getpixel((x, y - 50)) == rgb(sheet.EMPTY)
    assert image.getpixel(centre(2)) == rgb("red")


def test_neighbours_of_the_label_and_of_others_are_told_apart(pictures: Path) -> None:
    path = pictures / "sheet.png"
    below = sheet.THUMB // 2 - 3
    write_sheet([answer(pictures, "red.png", "blue.png", label="red")], path)
    image = drawn(path)
    marks = [image.getpixel((x, y + below)) for x, y in (centre(0), centre(1))]
    assert marks == [rgb(sheet.GOOD), rgb(sheet.BAD)]
    write_sheet([answer(pictures, "red.png", "blue.png")], path)
    image = drawn(path)
    assert image.getpixel((centre(1)[0], centre(1)[1] + below)) == rgb("blue")


def test_the_certificate_shows_whether_the_answer_is_exact(pictures: Path) -> None:
    path = pictures / "sheet.png"
    write_sheet([answer(pictures, "red.png")], path)
    assert count(drawn(path), sheet.GOOD_PAPER) > 500
    assert count(drawn(path), sheet.WARN_PAPER) == 0
    write_sheet([answer(pictures, "red.png", exact=False)], path)
    assert count(drawn(path), sheet.WARN_PAPER) > 500


def test_many_answers_are_capped_with_a_note(pictures: Path) -> None:
    one = answer(pictures, "red.png")
    path = pictures / "sheet.png"
    write_sheet([one] * 3, path, limit=3)
    three = drawn(path)
    write_sheet([one] * 30, path, limit=3)
    capped = drawn(path)
    assert capped.size == three.size
    foot = (0, capped.height - sheet.FOOTER, capped.width, capped.height)
    assert three.crop(foot).getcolors() == [(capped.width * sheet.FOOTER, rgb(sheet.PAPER))]
    assert len(capped.crop(foot).getcolors() or []) > 1


@pytest.mark.parametrize(
    "name",
    ["日本語 ❤.png", "a\nb\x00.png", "\udcff\udcfe.png", "x" * 300, "e\u0301.png", "مرحبا.png"],
)
def test_any_name_can_be_drawn(pictures: Path, name: str) -> None:
    found = answer(pictures, name, "red.png", label=name)
    strange = Answer(name, None, (0, 0, 0, 0), found.result, None, name)
    write_sheet([found, strange], pictures / "sheet.png", title=name)
    assert drawn(pictures / "sheet.png").getpixel(centre(1)) == rgb("red")


def test_no_answers_and_no_hits_still_give_a_sheet(pictures: Path) -> None:
    write_sheet([], pictures / "none.png")
    assert drawn(pictures / "none.png").width > 500
    write_sheet([answer(pictures)], pictures / "empty.png")
    assert drawn(pictures / "empty.png").getpixel((sheet.MARGIN + 30, 180)) == rgb("magenta")


def test_a_sheet_that_cannot_be_written_is_an_error_of_ours(pictures: Path) -> None:
    with pytest.raises(FormatError, match="Cannot write"):
        write_sheet([answer(pictures, "red.png")], pictures / "absent" / "sheet.png")


@pytest.mark.parametrize("text", ["short.png", "a" * 500, "日本語" * 40, ""])
def test_a_line_fits_its_width(text: str) -> None:
    short, font = lettering.fitted(text, 16, 120)
    assert font.getlength(short) <= 120
    assert short[:1] == text[:1] or "?" in short


def test_what_no_font_has_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    font = ImageFont.load_default(16)
    monkeypatch.setattr(lettering, "_fonts", lambda size: (font,))
    assert lettering.lettered("Café 日", 16)[0] == "Cafe ?"
