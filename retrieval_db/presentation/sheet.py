"""A contact sheet: one picture with a row for each query and its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path

from PIL import Image, ImageDraw

from ..interchange import replacing
from ..search import Hit
from .answer import Answer, visible
from .lettering import lettered, write
from .thumbnails import enlarged, thumbnail

PAPER, CARD, LINE = "#eef1f5", "#ffffff", "#d9dfe7"
INK, SOFT, FAINT = "#16202c", "#536274", "#8a97a6"
EMPTY, ACCENT = "#e4e9ef", "#2b5fd9"
GOOD, GOOD_PAPER = "#14784a", "#dcf3e6"
BAD, WARN, WARN_PAPER = "#c0352b", "#8a5a00", "#fdf0d2"

THUMB = 172
GAP = 14
MARGIN = 36
PADDING = 22
QUERY_GAP = 34
HEADER = 118
HEADLINE = 52
CAPTION = 55
LABEL = 21
FOOTER = 44
FRAME = 5

Picture = Callable[[Path], Image.Image | str]


@dataclass(frozen=True)
class Layout:
    """Sizes, in pixels, that follow from how many neighbours stand side by side."""

    columns: int

    @property
    def cell(self) -> int:
        return THUMB + GAP

    @property
    def hits_left(self) -> int:
        return MARGIN + PADDING + THUMB + QUERY_GAP

    @property
    def width(self) -> int:
        return self.hits_left + self.columns * self.cell - GAP + PADDING + MARGIN

    def lines(self, answer: Answer, hits: int) -> int:
        """Lines of neighbours that one answer takes."""
        return max(1, -(-min(len(answer.result.hits), hits) // self.columns))

    def line_height(self, answer: Answer) -> int:
        """Height of a line of neighbours with their captions."""
        labelled = answer.label is not None or any(hit.label for hit in answer.result.hits)
        return THUMB + CAPTION + (LABEL if labelled else 0) + GAP

    def height(self, answer: Answer, hits: int) -> int:
        """Height of one answer's card."""
        return HEADLINE + self.lines(answer, hits) * self.line_height(answer) + PADDING - GAP


def write_sheet(
    answers: Sequence[Answer],
    path: Path,
    *,
    title: str = "Nearest images",
    limit: int = 24,
    hits: int = 20,
) -> None:
    """Write answers as one PNG: a row for each query, its neighbours beside it.

    Each neighbour has its rank, its Hamming distance (in the fine stage the feature distance
    too), its label and its file name; a missing or broken file has a placeholder. Where the
    query's label is known, neighbours are marked as of the same label or of another.

    Args:
        answers: in the order in which they are shown.
        path: of the PNG; replaced when all has been drawn.
        title: stands at the top.
        limit: how many answers are shown; the sheet says how many were left out.
        hits: how many neighbours of each.

    Raises:
        FormatError: the file cannot be written.
    """
    shown = list(answers[:limit])
    most = max((min(len(answer.result.hits), hits) for answer in shown), default=0)
    layout = Layout(columns=min(10, max(5, most)))
    heights = [layout.height(answer, hits) for answer in shown]
    size = (layout.width, HEADER + sum(heights) + GAP * len(shown) + FOOTER)
    sheet = Image.new("RGB", size, PAPER)
    picture = lru_cache(maxsize=256)(partial(thumbnail, size=THUMB))
    _header(sheet, title, shown, len(answers))
    top = HEADER
    for answer, height in zip(shown, heights, strict=True):
        _card(sheet, answer, top, height, layout, hits, picture)
        top += height + GAP
    if len(answers) > len(shown):
        omitted = len(answers) - len(shown)
        note = f"{omitted} further {'query is' if omitted == 1 else 'queries are'} not shown."
        write(ImageDraw.Draw(sheet), (MARGIN, top + 8), note, 20, SOFT)
    with replacing(path) as temporary:
        sheet.save(temporary, "PNG")


def _header(sheet: Image.Image, title: str, shown: Sequence[Answer], total: int) -> None:
    draw = ImageDraw.Draw(sheet)
    width = sheet.width - 2 * MARGIN
    write(draw, (MARGIN, 28), visible(title), 38, INK, width=width)
    encoders = ", ".join(dict.fromkeys(answer.result.encoder for answer in shown)) or "none"
    queries = f"{total} queries" if total != 1 else "1 query"
    count = queries if total == len(shown) else f"{len(shown)} of {queries}"
    write(draw, (MARGIN, 78), f"{count}  ·  encoder {visible(encoders)}", 21, SOFT, width=width)


def _card(
    sheet: Image.Image,
    answer: Answer,
    top: int,
    height: int,
    layout: Layout,
    hits: int,
    picture: Picture,
) -> None:
    """One answer: the headline, the query at the left, its neighbours at the right."""
    _rounded(sheet, (MARGIN, top, layout.width - MARGIN, top + height), 14, CARD)
    draw = ImageDraw.Draw(sheet)
    left = MARGIN + PADDING
    _headline(sheet, answer, top, layout, hits)
    body = top + HEADLINE
    reason = "no picture: a code"
    image = picture(answer.file) if answer.file is not None else reason
    _place(sheet, image, left, body)
    frame = (left - FRAME, body - FRAME, left + THUMB + FRAME - 1, body + THUMB + FRAME - 1)
    draw.rectangle(frame, outline=ACCENT, width=FRAME)
    write(draw, (left, body + THUMB + 10), "query", 19, ACCENT)
    line = body + THUMB + 33
    if answer.label is not None:
        write(draw, (left, line), visible(answer.label), 18, INK, width=THUMB)
        line += LABEL
    name = visible(answer.file.name) if answer.file is not None else answer.title
    write(draw, (left, line), name, 16, SOFT, width=THUMB)
    divider = layout.hits_left - QUERY_GAP // 2
    draw.line((divider, body, divider, top + height - PADDING), fill=LINE, width=2)
    for place, hit in enumerate(answer.result.hits[:hits]):
        row, column = divmod(place, layout.columns)
        x = layout.hits_left + column * layout.cell
        _hit(sheet, answer, hit, x, body + row * layout.line_height(answer), picture)
    if not answer.result.hits:
        write(draw, (layout.hits_left, body + THUMB // 2), "No image found.", 22, SOFT, anchor="lm")


def _headline(sheet: Image.Image, answer: Answer, top: int, layout: Layout, hits: int) -> None:
    draw = ImageDraw.Draw(sheet)
    result = answer.result
    middle = top + HEADLINE // 2 - 2
    found = len(result.hits)
    counted = f"first {hits} of {found:,}" if found > hits else f"{found} found"
    facts = f"{answer.stage}  ·  {counted}  ·  {result.milliseconds:.1f} ms"
    right = layout.width - MARGIN - PADDING
    right -= write(draw, (right, middle), facts, 19, SOFT, anchor="rm") + 16
    certificate = visible(answer.certificate)
    ink, paper = (GOOD, GOOD_PAPER) if result.exact else (WARN, WARN_PAPER)
    text, font = lettered(certificate, 19)
    width = round(font.getlength(text))
    _rounded(sheet, (right - width - 24, middle - 15, right, middle + 15), 15, paper)
    write(draw, (right - 12, middle), text, 19, ink, anchor="rm")
    left = MARGIN + PADDING
    room = right - width - 24 - 16 - left
    write(draw, (left, middle), answer.title, 22, INK, width=room, anchor="lm")


def _hit(
    sheet: Image.Image, answer: Answer, hit: Hit, left: int, top: int, picture: Picture
) -> None:
    draw = ImageDraw.Draw(sheet)
    agrees = answer.agrees(hit)
    _place(sheet, picture(answer.path_of(hit)), left, top)
    if agrees is not None:
        colour = GOOD if agrees else BAD
        draw.rectangle((left, top + THUMB - 6, left + THUMB - 1, top + THUMB - 1), fill=colour)
    line = top + THUMB + 9
    write(draw, (left, line), f"{hit.rank}", 20, FAINT)
    distance = f"{hit.distance} bit" + ("" if hit.distance == 1 else "s")
    if hit.feature_distance is not None:
        distance = f"{hit.feature_distance:.3f}  ·  {distance}"
    write(draw, (left + THUMB, line), distance, 19, INK, anchor="ra")
    line += 25
    if hit.label is not None:
        colour = INK if agrees is None else GOOD if agrees else BAD
        drawn = write(draw, (left, line), visible(hit.label), 18, colour, width=THUMB - 24)
        if agrees is not None:
            _mark(draw, left + drawn + 9, line + 4, agrees, colour)
        line += LABEL
    write(draw, (left, line), visible(Path(hit.path).name), 16, SOFT, width=THUMB)


def _mark(draw: ImageDraw.ImageDraw, left: int, top: int, agrees: bool, colour: str) -> None:
    """A tick or a cross: Pillow's font has neither."""
    if agrees:
        draw.line((left, top + 6, left + 4, top + 10, left + 12, top), fill=colour, width=3)
    else:
        draw.line((left, top, left + 10, top + 10), fill=colour, width=3)
        draw.line((left, top + 10, left + 10, top), fill=colour, width=3)


def _place(sheet: Image.Image, image: Image.Image | str, left: int, top: int) -> None:
    """Put an image, or the reason why there is none, in the middle of a square."""
    draw = ImageDraw.Draw(sheet)
    draw.rectangle((left, top, left + THUMB - 1, top + THUMB - 1), fill=EMPTY)
    if isinstance(image, str):
        middle = (left + THUMB // 2, top + THUMB // 2)
        draw.line((left, top, left + THUMB - 1, top + THUMB - 1), fill=LINE, width=2)
        draw.line((left, top + THUMB - 1, left + THUMB - 1, top), fill=LINE, width=2)
        write(draw, middle, image, 19, SOFT, width=THUMB - 8, anchor="mm")
        return
    large = enlarged(image, THUMB)
    sheet.paste(large, (left + (THUMB - large.width) // 2, top + (THUMB - large.height) // 2))


def _rounded(sheet: Image.Image, box: tuple[int, int, int, int], radius: int, colour: str) -> None:
    """A filled box with round corners; drawn larger and reduced, so that they are smooth."""
    left, top, right, bottom = box
    scale = 4
    mask = Image.new("L", ((right - left) * scale, (bottom - top) * scale), 0)
    corner = (mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, *corner), radius * scale, fill=255)
    sheet.paste(colour, (left, top, right, bottom), mask.reduce(scale))
