"""Image files: finding them, hashing their content, and reading them as upright RGB."""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import ImageError, UsageError
from . import tars

# What Pillow would also open, but nobody keeps as photos; some of it runs another program, without
# a limit of time, or is a shell around something else.
NOT_PHOTOS = {"BUFR", "EPS", "GRIB", "HDF5", "IPTC", "MPEG", "PDF", "WMF"}

# No photo that Pillow would decode has more bytes, and no single read takes many more.
LARGEST = 1 << 30


@cache
def suffixes() -> frozenset[str]:
    """The file name endings, lower case, that are taken for images."""
    Image.init()
    known = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in known if kind not in NOT_PHOTOS)


@cache
def kinds() -> tuple[str, ...]:
    """Pillow's names of the formats that are decoded, whatever a file is called."""
    Image.init()
    return tuple(kind for kind in Image.ID if kind not in NOT_PHOTOS)


def find(source: Path) -> Iterator[Path]:
    """The image files of a folder and the folders under it, by name; or the file itself.

    A file may be a member of a tar shard.

    Hidden files and folders are left out, and links to folders are not followed. A folder
    that cannot be read comes instead of what is in it: `content` then says why.

    Raises:
        UsageError: there is no such file or folder.
    """
    if exists(source):
        yield source
        return
    if not os.path.isdir(source):
        raise UsageError(f"There is no file or folder {printable(source)}.")
    wanted = suffixes()
    closed: list[OSError] = []
    for folder, below, names in os.walk(source, onerror=closed.append):
        below[:] = sorted(name for name in below if not name.startswith("."))
        for name in sorted(names):
            if Path(name).suffix.lower() in wanted and not name.startswith("."):
                yield Path(folder, name)
    yield from (Path(error.filename) for error in closed)


def content(path: Path) -> bytes:
    """The bytes of a file, or of a member of a tar shard (`shard.tar/member`).

    Raises:
        ImageError: it cannot be read.
    """
    with _reading(path):
        try:
            status = path.stat()
        except NotADirectoryError:
            inside = tars.place(str(path))
            if inside is None:
                raise
            return part(Path(inside[0]), *inside[1:])
        if stat.S_ISDIR(status.st_mode):
            os.listdir(path)
        # A pipe that is named like an image would never end.
        if not stat.S_ISREG(status.st_mode):
            raise ImageError(f"{printable(path)}: not a file")
        _check_size(path, status.st_size)
        return path.read_bytes()


def part(file: Path, start: int, size: int) -> bytes:
    """Some bytes of a file.

    Raises:
        ImageError: they cannot be read, or the file ends before.
    """
    _check_size(file, size)
    with _reading(file), file.open("rb", buffering=0) as opened:
        data = os.pread(opened.fileno(), size, start)
    if len(data) < size:
        raise ImageError(f"{printable(file)}: the file ends too soon")
    return data


def _check_size(path: Path, size: int) -> None:
    if size > LARGEST:
        raise ImageError(f"{printable(path)}: too large for a photo ({size:,} bytes)")


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """What goes wrong with reading a file is an ImageError."""
    try:
        yield
    except OSError as error:
        raise ImageError(f"{printable(path)}: {error.strerror or error}") from error
    except MemoryError as error:
        raise ImageError(f"{printable(path)}: too large for the memory") from error
    # No name has a zero byte; no place in a file is beyond 64 bits.
    except (ValueError, OverflowError) as error:
        raise ImageError(f"{printable(path)}: {error}") from error


def exists(path: Path) -> bool:
    """Whether there is such a file, or such a member of a tar shard; also of impossible names."""
    try:
        return path.is_file() or tars.place(str(path)) is not None
    except OSError:
        return False


def is_gone(path: Path) -> bool:
    """Whether it is certain that there is no such file; one behind a closed door may be."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except NotADirectoryError:
        with suppress(OSError):
            return tars.is_gone(str(path))
    except OSError:
        return False
    return False


def sha256(data: bytes) -> bytes:
    """The SHA-256 of a file's content, 32 bytes."""
    return hashlib.sha256(data).digest()


def decode(data: bytes, path: Path) -> Image.Image:
    """Decode an image file as it is meant to be seen: upright, RGB, its first frame.

    Transparent parts become white; 16-bit grey is scaled to 8 bits.

    Raises:
        ImageError: not an image, truncated, or larger than Pillow's decompression-bomb limit
            (`PIL.Image.MAX_IMAGE_PIXELS`).
    """
    try:
        with Image.open(io.BytesIO(data), formats=kinds()) as image:
            image.load()
            return _rgb(_upright(image))
    except UnidentifiedImageError as error:
        raise ImageError(f"{printable(path)}: not an image") from error
    except Image.DecompressionBombError as error:
        raise ImageError(f"{printable(path)}: too many pixels ({error})") from error
    except MemoryError as error:
        raise ImageError(f"{printable(path)}: too large for the memory") from error
    # Pillow's format plugins raise nearly anything on broken files.
    except Exception as error:
        raise ImageError(f"{printable(path)}: broken image ({error})") from error


def printable(path: Path | str) -> str:
    """A path that can be printed, whatever bytes its name has."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:
        # Broken EXIF, on which Pillow raises nearly anything, does not spoil the pixels.
        return image


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I;16", "I;16L", "I;16B", "I;16N", "I"):
        # Pillow would clip 16-bit grey at 255 instead of scaling it.
        values = np.asarray(image, dtype=np.int64)
        return Image.fromarray((values.clip(0, 65535) >> 8).astype(np.uint8)).convert("RGB")
    if image.mode == "F":
        return Image.fromarray(
            np.nan_to_num(np.asarray(image)).clip(0, 255).astype(np.uint8)
        ).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
