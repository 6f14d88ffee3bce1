"""Where images come from: lists, standard input, folders beside them, and parts of a job."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db.errors import UsageError
from retrieval_db.photos import Shard, Sources, files
from tests import command
from tests.example import rows


class TestLists:
    """Paths from a file or standard input; each line a file, a folder or a shard."""

    def test_what_a_line_may_be(self, tmp_path: Path, shard: Path) -> None:
        command.photos(tmp_path, ["x.png", "more/y.png", "more/z.png"])
        file = tmp_path / "list.txt"
        file.write_text(f"\ufeffx.png\n\nmore\n000.tar\n{tmp_path}/gone.png\n")
        sources = Sources(lists=[file])
        assert [str(item.path.relative_to(tmp_path)) for item in sources] == [
            "x.png", "more/y.png", "more/z.png",
            "000.tar/a.png", "000.tar/sub/b.left.png", "000.tar/sub/b.right.png",
            "000.tar/c.png", "000.tar/d.png", "gone.png",
        ]  # fmt: skip
        assert sources.count() == 9

    def test_names_of_any_bytes(self, tmp_path: Path) -> None:
        file = tmp_path / "list.txt"
        file.write_bytes(
            b"\xef\xbb\xbfa.jpg\r\n\n  \nsub/b c .jpg\n/abs/d.jpg\ncaf\xe9.jpg\n\xe2\x80\xa8.jpg"
        )
        assert [os.fsencode(item.path) for item in Sources(lists=[file])] == [
            os.fsencode(tmp_path) + b"/a.jpg",
            os.fsencode(tmp_path) + b"/sub/b c .jpg",
            b"/abs/d.jpg",
            os.fsencode(tmp_path) + b"/caf\xe9.jpg",
            os.fsencode(tmp_path) + b"/\xe2\x80\xa8.jpg",
        ]

    def test_a_zero_byte_late_in_a_list(self, tmp_path: Path) -> None:
        """It is never part of a path."""
        (tmp_path / "list").write_bytes(b"a.jpg\n" * 20_000 + b"b.jpg\0c.jpg")
        names = [item.path.name for item in Sources(lists=[tmp_path / "list"])]
        assert names[-3:] == ["a.jpg", "b.jpg", "c.jpg"]

    def test_names_that_end_with_zero_bytes(self, tmp_path: Path) -> None:
        names = [f"{'long ' * 40}{number}\n.png" for number in range(20)]
        (tmp_path / "list").write_bytes(b"\0".join(map(str.encode, names)) + b"\0")
        assert [item.path for item in Sources(lists=[tmp_path / "list"])] == [
            tmp_path / name for name in names
        ]

    def test_no_list(self, tmp_path: Path) -> None:
        with pytest.raises(UsageError, match=r"list .*nowhere cannot be read: No such file"):
            Sources(lists=[tmp_path / "nowhere"]).count()
        (tmp_path / "empty").touch()
        with pytest.raises(UsageError, match=r"no image files in .*empty"):
            Sources(lists=[tmp_path / "empty"]).count()

    @pytest.mark.parametrize("arguments", [("-",), ("--list", "-")])
    def test_standard_input(
        self, database_url: str, tmp_path: Path, arguments: tuple[str, ...]
    ) -> None:
        folder = command.photos(tmp_path / "photos", ["a.png", "b.png", "c.png"])
        lines = f"{folder}/a.png\n{folder}/c.png\n{folder}/gone.png\n".encode()
        options = ["-e", "phash64", "-d", database_url]
        outcome = command.succeed("index", *arguments, *options, stdin=lines)
        assert outcome.out.startswith("phash64: 3 image files, 2 new")
        assert "gone.png: No such file or directory" in outcome.err

    def test_a_list_beside_a_folder(self, database_url: str, tmp_path: Path) -> None:
        folder = command.photos(tmp_path / "photos", ["a.png", "b.png"])
        others = command.photos(tmp_path / "others", ["c.png", "d.png"])
        (tmp_path / "list.txt").write_text("others/c.png\n")
        arguments = [folder, "--list", tmp_path / "list.txt", "-e", "phash64", "-d", database_url]
        outcome = command.succeed("index", *arguments, "--json")
        assert json.loads(outcome.out)["inserted"] == 3
        # What a list leaves out is not gone.
        (others / "c.png").unlink()
        report = json.loads(command.succeed("index", *arguments, "--prune", "--json").out)
        assert (report["gone"], report["pruned"], len(report["skipped"])) == ([], 0, 1)

    def test_sources_beside_places(self, database_url: str, tmp_path: Path) -> None:
        folder = command.photos(tmp_path / "photos", ["a.png"])
        encoder = encoders_of_photos.create("phash64")
        with retrieval_db.connect(database_url) as db:
            with pytest.raises(UsageError, match="Sources stand alone"):
                db.index(Sources([folder]), folder, encoder=encoder)
            assert db.index(Sources([folder]), encoder=encoder).inserted == 1

    def test_nothing_named(self, database_url: str) -> None:
        outcome = command.run("index", "-e", "phash64", "-d", database_url)
        assert outcome.code == 2
        assert "image files" in outcome.err


class TestParts:
    """`--shard I/N`: every image in exactly one part, whoever lists them."""

    @pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/0", "-1/4", ""])
    def test_what_is_no_part(self, text: str) -> None:
        with pytest.raises(UsageError, match="--shard"):
            Shard.parse(text)

    def test_parts_are_disjoint_and_even(self) -> None:
        names = [f"/photos/{number}.jpg" for number in range(4000)]
        parts = [[name for name in names if Shard(part, 4).holds(name)] for part in range(1, 5)]
        assert sorted(name for part in parts for name in part) == sorted(names)
        assert all(900 < len(part) < 1100 for part in parts)
        few = [sum(Shard(1, 2).holds(f"/p/{day}/{n}.jpg") for n in range(8)) for day in range(200)]
        assert np.std(few) == pytest.approx(2**0.5, rel=0.2)
        assert str(Shard.parse("2/4")) == "2/4"

    def test_several_machines_one_table(self, database_url: str, tmp_path: Path) -> None:
        folder = command.photos(tmp_path / "photos", [f"{n:03}.png" for n in range(90)])
        (folder / "broken.png").touch()
        options = ["-e", "phash64", "-d", database_url, "--root", folder]
        processes = [
            command.start("index", folder, *options, "--shard", f"{part}/3") for part in (1, 2, 3)
        ]
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
        assert len(rows(database_url)) == 90
        outcome = command.succeed("index", folder, *options)
        assert "90 unchanged, 1 skipped" in outcome.out
        for name in ("001.png", "002.png", "003.png", "004.png"):
            (folder / name).unlink()
        gone = [
            json.loads(command.succeed("index", folder, *options, "--shard", part, "--json").out)[
                "gone"
            ]
            for part in ("1/2", "2/2")
        ]
        assert sorted(gone[0] + gone[1]) == ["001.png", "002.png", "003.png", "004.png"]


def test_nothing_is_kept_of_what_was_listed(tmp_path: Path) -> None:
    """A single folder or list is not gathered before the first image is handed out."""
    (tmp_path / "a.png").touch()
    calls: list[str] = []

    def walk(place: Path) -> Iterator[Path]:
        for number in range(3):
            calls.append(str(number))
            yield place / f"{number}.png"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(files, "find", walk)
        next(iter(Sources([tmp_path])))
    assert calls == ["0"]
