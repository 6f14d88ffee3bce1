"""Text on a picture: fonts for any script, and lines that fit."""

from __future__ import annotations

import unicodedata
from functools import cache, lru_cache

from PIL import ImageDraw, ImageFont

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Pillow's own font has Latin letters only. These are tried for the rest, by name, where the
# system has them.
SYSTEM_FONTS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "NotoSansCJK-Regular.ttc",
    "Arial Unicode.ttf",
    "arial.ttf",
    "msyh.ttc",
)
UNKNOWN = "?"
NO_CHARACTER = "\uffff"


@cache
def _fonts(size: int) -> tuple[Font, ...]:
    found: list[Font] = [ImageFont.load_default(size)]
    for name in SYSTEM_FONTS:
        try:
            found.append(ImageFont.truetype(name, size))
        except OSError:
            continue
    return tuple(found)


@lru_cache(maxsize=4096)
def _draws(font: Font, character: str) -> bool:
    """Whether the font has this character, rather than the box for those it has not."""
    try:
        glyph, box = font.getmask(character), font.getmask(NO_CHARACTER)
    except (UnicodeError, OSError):
        return False
    return character.isspace() or bytes(glyph) != bytes(box)


def lettered(text: str, size: int) -> tuple[str, Font]:
    """A font that has all of the text; or the text with what no font has replaced."""
    fonts = _fonts(size)
    text = unicodedata.normalize("NFC", text)
    for font in fonts:
        if all(_draws(font, character) for character in text):
            return text, font
    font = max(fonts, key=lambda font: sum(_draws(font, character) for character in text))
    return "".join(_closest(font, character) for character in text), font


def _closest(font: Font, character: str) -> str:
    if _draws(font, character):
        return character
    plain = unicodedata.normalize("NFKD", character)[0]
    return plain if _draws(font, plain) else UNKNOWN


def fitted(text: str, size: int, width: int) -> tuple[str, Font]:
    """The text with its middle left out until it is at most `width` pixels wide."""
    text, font = lettered(text, size)
    if font.getlength(text) <= width:
        return text, font
    kept = min(len(text) - 1, 200)
    while kept > 1:
        head = -(-kept // 2)
        short = f"{text[:head]}...{text[len(text) - (kept - head) :]}"
        if font.getlength(short) <= width:
            return short, font
        kept -= 1
    return "...", font


def write(
    draw: ImageDraw.ImageDraw,
    position: tuple[int, int],
    text: str,
    size: int,
    colour: str,
    *,
    width: int = 10_000,
    anchor: str = "la",
) -> int:
    """Draw one line of text, shortened to `width` pixels.

    Args:
        anchor: Pillow's text anchor; `la` means that `position` is the left top.

    Returns:
        The width of what was drawn, in pixels.
    """
    short, font = fitted(text, size, width)
    draw.text(position, short, fill=colour, font=font, anchor=anchor)
    return round(font.getlength(short))
