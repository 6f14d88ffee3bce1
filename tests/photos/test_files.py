"""Image files of every kind and in every state are read as meant, or refused with a reason."""

from __future__ import annotations

import contextlib
import io
import os
import pathlib
import struct
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps

from retrieval_db import photos
from retrieval_db.errors import ImageError, UsageError
from retrieval_db.photos import files, sources

SIZE = (30, 20)
Image.init()


def picture(seed: int = 0) -> Image.Image:
    """Four plain quarters, none like another: what is turned or mirrored shows."""
    colours = np.random.default_rng(seed).permutation(
        np.array([[250, 10, 10], [10, 250, 10], [10, 10, 250], [240, 240, 10]], dtype=np.uint8)
    )
    quarters = colours.reshape(2, 2, 3).repeat(SIZE[1] // 2, axis=0).repeat(SIZE[0] // 2, axis=1)
    return Image.fromarray(quarters)


def saved(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def decoded(data: bytes) -> Image.Image:
    return photos.decode(data, Path("photo"))


def pixels(image: Image.Image) -> NDArray[np.int64]:
    return np.asarray(image).astype(np.int64)


def assert_alike(image: Image.Image, wanted: Image.Image, tolerance: int = 12) -> None:
    assert image.mode == "RGB"
    assert image.size == wanted.size
    assert abs(pixels(image) - pixels(wanted.convert("RGB"))).max() <= tolerance


class TestDecode:
    """What is seen is the upright image as RGB."""

    @pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "WEBP", "GIF", "PPM"])
    def test_common_formats(self, kind: str) -> None:
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        assert_alike(decoded(saved(picture(), kind, **options)), picture())

    @pytest.mark.parametrize("mode", ["CMYK", "L", "1", "YCbCr"])
    def test_other_colour_spaces(self, mode: str) -> None:
        image = picture().convert(mode)
        kind = "TIFF" if mode in ("CMYK", "1", "YCbCr") else "PNG"
        assert_alike(decoded(saved(image, kind)), image)

    def test_cmyk_jpeg(self) -> None:
        data = saved(picture().convert("CMYK"), "JPEG", quality=95, subsampling=0)
        assert_alike(decoded(data), picture(), tolerance=30)

    def test_palette(self) -> None:
        assert_alike(decoded(saved(picture().quantize(4), "PNG")), picture())

    @pytest.mark.parametrize("mode", ["P", "L", "RGB", "RGBA", "LA"])
    def test_what_is_transparent_is_white(self, mode: str) -> None:
        image = picture()
        options: dict[str, Any] = {}
        if mode == "P":
            image = image.quantize(4)
            options["transparency"] = np.asarray(image)[0, 0].item()
        elif mode == "L":
            image = image.convert("L")
            options["transparency"] = np.asarray(image)[0, 0].item()
        elif mode == "RGB":
            options["transparency"] = tuple(np.asarray(image)[0, 0].tolist())
        else:
            alpha = Image.new("L", SIZE, 255)
            alpha.paste(0, (0, 0, SIZE[0] // 2, SIZE[1] // 2))
            image = image.convert(mode)
            image.putalpha(alpha)
        found = pixels(decoded(saved(image, "PNG", **options)))
        assert (found[: SIZE[1] // 2, : SIZE[0] // 2] == 255).all()
        wanted = pixels(picture().convert("L" if mode in ("L", "LA") else "RGB").convert("RGB"))
        assert abs(found - wanted)[SIZE[1] // 2 :].max() <= 12

    @pytest.mark.parametrize("kind", ["PNG", "TIFF"])
    def test_16_bit_grey_is_scaled(self, kind: str) -> None:
        values = np.linspace(0, 65535, 600).astype(np.uint16).reshape(20, 30)
        found = pixels(decoded(saved(Image.fromarray(values), kind)))
        assert (found == (values >> 8)[:, :, None]).all()

    def test_float_grey_is_clipped(self) -> None:
        values = np.array([[-5, 0, 100], [255, 900, np.nan]], dtype=np.float32)
        found = pixels(decoded(saved(Image.fromarray(values), "TIFF")))
        assert found[:, :, 0].tolist() == [[0, 0, 100], [255, 255, 0]]

    @pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
    @pytest.mark.parametrize("orientation", range(1, 9))
    def test_exif_orientation(self, kind: str, orientation: int) -> None:
        # To be stored with orientation n, an image is turned the way that n undoes.
        undo = {5: 5, 6: 8, 7: 7, 8: 6}
        turn = Image.Exif()
        turn[0x0112] = undo.get(orientation, orientation)
        source = picture()
        source.info["exif"] = turn.tobytes()
        stored = ImageOps.exif_transpose(source)
        stored.info.pop("exif", None)
        exif = Image.Exif()
        exif[0x0112] = orientation
        options: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
        data = saved(stored, kind, exif=exif, lossless=True, **options)
        assert_alike(decoded(data), picture(), tolerance=40)

    def test_broken_exif_does_not_spoil_the_pixels(self) -> None:
        data = saved(picture(), "PNG", exif=b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01\x12")
        assert_alike(decoded(data), picture())

    @pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
    def test_the_first_frame_of_an_animation(self, kind: str) -> None:
        frames = [picture(seed) for seed in (0, 1, 2)]
        options: dict[str, Any] = {"lossless": True} if kind == "WEBP" else {}
        data = saved(frames[0], kind, save_all=True, append_images=frames[1:], **options)
        assert_alike(decoded(data), frames[0])

    def test_one_pixel(self) -> None:
        assert decoded(saved(Image.new("RGB", (1, 1), "red"), "PNG")).size == (1, 1)


def truncated(data: bytes) -> bytes:
    return data[: len(data) // 2]


def bomb() -> bytes:
    """A PNG whose header says 65,000 × 65,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        whole = kind + data
        return struct.pack(">I", len(data)) + whole + struct.pack(">I", zlib.crc32(whole))

    header = struct.pack(">IIBBBBB", 65_000, 65_000, 1, 0, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + rows + chunk(b"IEND", b"")


class TestBrokenFiles:
    """One reason each; nothing but ImageError."""

    @pytest.mark.parametrize(
        ("make", "reason"),
        [
            (lambda: b"", "not an image"),
            (lambda: b"These are no pixels.", "not an image"),
            (lambda: b"\xff\xd8\xff\xe0 nearly a JPEG", "broken image"),
            (lambda: truncated(saved(picture(), "JPEG")), "broken image|not an image"),
            (lambda: truncated(saved(picture(), "PNG")), "broken image|not an image"),
            (lambda: truncated(saved(picture(), "TIFF")), "broken image|not an image"),
            (bomb, "too many pixels"),
        ],
    )
    def test_content(self, make: Callable[[], bytes], reason: str) -> None:
        with pytest.raises(ImageError, match=f"^photo: ({reason})"):
            decoded(make())

    @pytest.mark.parametrize("kind", sorted(files.NOT_PHOTOS & set(Image.OPEN)))
    def test_what_is_no_photo_is_not_opened_under_any_name(
        self, kind: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def opened(*given: object) -> Image.Image:
            raise AssertionError(kind)

        monkeypatch.setitem(Image.OPEN, kind, (opened, lambda start: True))
        with pytest.raises(ImageError, match="photo: not an image"):
            decoded(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n")

    def test_bytes_changed_at_random_give_an_image_or_an_image_error(self) -> None:
        random = np.random.default_rng(3)
        for kind in ("JPEG", "PNG", "GIF", "WEBP", "TIFF"):
            data = bytearray(saved(picture(), kind))
            for _ in range(40):
                broken = bytearray(data)
                for place in random.integers(0, len(data), 5):
                    broken[place] = int(random.integers(256))
                with contextlib.suppress(ImageError):
                    assert decoded(bytes(broken)).mode == "RGB"

    def test_an_impossible_name(self) -> None:
        with pytest.raises(ImageError, match="null byte"):
            photos.content(Path("a\0b.png"))

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        (tmp_path / "folder.jpg").mkdir()
        (tmp_path / "link.jpg").symlink_to(tmp_path / "nowhere")
        os.mkfifo(tmp_path / "pipe.jpg")
        for name, reason in [
            ("folder.jpg", "not a file"),
            ("link.jpg", "No such file"),
            ("pipe.jpg", "not a file"),
        ]:
            with pytest.raises(ImageError, match=f"{name}: {reason}"):
                photos.content(tmp_path / name)

    def test_a_file_that_is_huge(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        with (tmp_path / "a.jpg").open("wb") as file:
            file.truncate(1 << 40)
        with pytest.raises(ImageError, match=r"a\.jpg: too large for a photo \(1,099,511,627,776 "):
            photos.content(tmp_path / "a.jpg")

        def full(*given: object) -> None:
            raise MemoryError

        (tmp_path / "a.jpg").write_bytes(b"short")
        monkeypatch.setattr(Path, "read_bytes", full)
        with pytest.raises(ImageError, match=r"a\.jpg: too large for the memory"):
            photos.content(tmp_path / "a.jpg")
        with pytest.raises(ImageError, match=r"a\.jpg: .*too large"):
            photos.part(tmp_path / "a.jpg", 1 << 70, 5)

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
    def test_a_file_without_permission(self, tmp_path: Path) -> None:
        (tmp_path / "a.jpg").write_bytes(b"")
        (tmp_path / "a.jpg").chmod(0)
        with pytest.raises(ImageError, match="Permission denied"):
            photos.content(tmp_path / "a.jpg")


class TestFind:
    """Folders give their image files, in order, each once."""

    def test_folders(self, tmp_path: Path) -> None:
        names = ["b.PNG", "a.jpg", "sub/c.webp", "sub/deep/d.Tif", "x.jpg/inside.gif"]
        others = [".hidden.jpg", ".cache/e.jpg", "notes.txt", "jpg", "f.pdf", "clip.mpg"]
        for name in [*names, *others]:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "broken.jpg").symlink_to(tmp_path / "nowhere")
        found = [str(path.relative_to(tmp_path)) for path in photos.find(tmp_path)]
        assert found == ["a.jpg", "b.PNG", "broken.jpg", *sorted(names[2:])]

    def test_a_hidden_folder_that_is_named_is_meant(self, tmp_path: Path) -> None:
        (tmp_path / ".photos").mkdir()
        (tmp_path / ".photos" / "a.jpg").touch()
        assert len(list(photos.find(tmp_path / ".photos"))) == 1

    def test_the_same_folder_twice(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "sub").mkdir()
        for name in ("a.jpg", "sub/b.jpg"):
            (tmp_path / name).touch()
        monkeypatch.chdir(tmp_path)
        places = [tmp_path, Path(), Path("sub"), Path("sub/../a.jpg"), tmp_path]
        found = [item.path for item in photos.Sources(places)]
        assert sorted(os.path.abspath(path) for path in found) == [
            str(tmp_path / "a.jpg"),
            str(tmp_path / "sub" / "b.jpg"),
        ]

    def test_what_a_walk_leaves_out_is_not_lost(self, tmp_path: Path) -> None:
        """A place under another one is dropped only where the walk comes by."""
        for name in ("a.jpg", "sub/b.jpg", ".hidden/c.jpg", "sub/.d.jpg", "e.data"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).touch()
        (tmp_path / "link").symlink_to("sub")
        (tmp_path / "link.jpg").symlink_to("a.jpg")
        below = ["sub", "link", "link/b.jpg", ".hidden", ".hidden/c.jpg", "sub/.d.jpg", "e.data"]
        places = [tmp_path / name for name in (*below, "link.jpg", "sub/b.jpg")]
        found = [item.path for item in photos.Sources([*places, tmp_path, tmp_path / "sub"])]
        names = ["a.jpg", "sub/b.jpg", "link/b.jpg", "link.jpg", ".hidden/c.jpg", "sub/.d.jpg"]
        assert sorted(found) == sorted(tmp_path / name for name in (*names, "e.data"))

    def test_nothing_is_kept_of_what_was_found(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def many(place: Path) -> Iterator[photos.Item]:
            return (photos.Item(place / f"{number:0200}.jpg") for number in range(10_000))

        monkeypatch.setattr(sources, "_items", many)
        tracemalloc.start()
        try:
            for number, _ in enumerate(photos.Sources([tmp_path / "a", tmp_path / "b"]), start=1):
                if number == 20_000:
                    held = tracemalloc.take_snapshot()
        finally:
            tracemalloc.stop()
        # pathlib makes Python's own table of names grow, however few of them are left.
        ours = held.filter_traces([tracemalloc.Filter(False, pathlib.__file__)])
        assert sum(trace.size for trace in ours.traces) < 1 << 20, "the names take six"

    def test_nothing_to_find(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match="no image files in"):
            photos.Sources([tmp_path]).check()
        with pytest.raises(UsageError, match="no file or folder"):
            photos.Sources([tmp_path / "no such"]).check()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
    def test_a_folder_without_permission(self, tmp_path: Path) -> None:
        (tmp_path / "closed").mkdir(mode=0)
        assert list(photos.find(tmp_path)) == [tmp_path / "closed"]
        with pytest.raises(ImageError, match="closed: Permission denied"):
            photos.content(tmp_path / "closed")


def test_any_name_can_be_printed() -> None:
    assert photos.printable(Path(os.fsdecode(b"caf\xe9 \xc3\xa9.jpg"))) == "caf\\xe9 é.jpg"
