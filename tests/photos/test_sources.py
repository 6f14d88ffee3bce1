"""Where images come from: folders, lists, standard input, tar shards, and parts of a job."""

from __future__ import annotations

import errno
import io
import json
import os
import tarfile
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db import photos
from retrieval_db.errors import FormatError, ImageError, UsageError
from retrieval_db.photos import Shard, Sources, files, tars
from tests import command, example


def picture(seed: int) -> bytes:
    buffer = io.BytesIO()
    command.photo(seed).save(buffer, "PNG")
    return buffer.getvalue()


def make_shard(file: Path, members: Mapping[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, data in members.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            tar.addfile(entry, io.BytesIO(data))
    return file


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return make_shard(
        tmp_path / "000.tar",
        {
            "a.png": picture(1),
            "a.cls": b"hat\n",
            "a.json": b'{"year": 2024, "label": "not this"}',
            "sub/b.json": b'{"label": 7}',
            "sub/b.left.png": picture(2),
            "sub/b.right.png": picture(3),
            "./c.png": picture(4),
            "c.txt": b"a caption",
            "d.json": b"[1, 2]",
            "d.png": picture(5),
            "e.cls": b"nothing to label",
            ".hidden.png": picture(6),
            "../out.png": picture(7),
        },
    )


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


class TestTars:
    """WebDataset's layout: samples are members that stand together and share a key."""

    def test_members(self, shard: Path) -> None:
        found = {one.name: one for one in tars.members(shard, photos.suffixes())}
        assert list(found) == ["a.png", "sub/b.left.png", "sub/b.right.png", "c.png", "d.png"]
        assert (found["a.png"].label, json.loads(found["a.png"].metadata or "")["year"]) == (
            "hat",
            2024,
        )
        assert {found[f"sub/b.{side}.png"].label for side in ("left", "right")} == {"7"}
        assert [(found[name].label, found[name].metadata) for name in ("c.png", "d.png")] == [
            (None, None)
        ] * 2

    def test_a_member_that_was_appended_again(self, database_url: str, tmp_path: Path) -> None:
        """The last of a name counts, as where a shard is unpacked; then it is up to date."""
        shard = make_shard(tmp_path / "000.tar", {"a.png": picture(1), "a.cls": b"hat"})
        other = make_shard(tmp_path / "more", {"a.png": picture(2), "a.cls": b"cap"})
        ending = shard.read_bytes().rstrip(b"\0")
        whole = ending + bytes(-len(ending) % tarfile.BLOCKSIZE)
        shard.write_bytes(whole + other.read_bytes())
        (item,) = Sources([shard])
        assert (item.content(), item.label) == (picture(2), "cap")
        assert photos.content(item.path) == picture(2)
        with retrieval_db.connect(database_url) as db:
            encoder = encoders_of_photos.create("phash64")
            first, second = (db.index(shard, encoder=encoder) for _ in range(2))
        assert (first.found, first.inserted, second.unchanged) == (1, 1, 1)

    def test_any_member_can_be_read(self, shard: Path) -> None:
        for item in Sources([shard]):
            # With the place that the listing gave, and by its name alone.
            assert item.content() == photos.content(item.path)
        assert photos.content(shard / "sub/b.left.png") == picture(2)
        assert photos.exists(shard / "a.png")
        assert not photos.exists(shard / "no.png")
        assert not photos.exists(shard.with_name("001.tar") / "a.png")
        with pytest.raises(ImageError, match=r"no\.png: Not a directory"):
            photos.content(shard / "no.png")

    def test_a_shard_that_has_changed(self, shard: Path) -> None:
        assert photos.content(shard / "a.png") == picture(1)
        make_shard(shard, {"z.png": picture(9), "a.png": picture(8)})
        assert photos.content(shard / "a.png") == picture(8)

    def test_a_folder_whose_name_grows_in_lower_case(self, tmp_path: Path) -> None:
        (tmp_path / "İİİ").mkdir()
        shard = make_shard(tmp_path / "İİİ" / "000.TAR", {"a.png": picture(1)})
        (item,) = Sources([shard])
        assert item.content() == photos.content(item.path) == picture(1)

    @pytest.mark.parametrize("size", [1 << 40, 1 << 80])
    def test_a_member_that_says_it_is_huge(self, tmp_path: Path, size: int) -> None:
        shard = make_shard(tmp_path / "000.tar", {"a.png": picture(1), "b.png": picture(2)})
        entry = tarfile.TarInfo("b.png")
        entry.size = size
        whole = shard.read_bytes()
        at = whole.index(b"b.png")
        shard.write_bytes(whole[:at] + entry.tobuf(tarfile.GNU_FORMAT) + whole[at + 512 :])
        first, *others = Sources([shard])
        assert first.content() == photos.content(first.path) == picture(1)
        for item in others:
            with pytest.raises(ImageError, match=r"too large for a photo|broken tar file"):
                item.content()
        with pytest.raises(ImageError, match=r"too large for a photo"):
            photos.content(shard / "b.png")

    def test_a_pax_header_that_says_it_is_huge(self, tmp_path: Path) -> None:
        entry = tarfile.TarInfo("header")
        entry.type, entry.size = tarfile.XHDTYPE, 1 << 45
        (tmp_path / "000.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
        (item,) = Sources([tmp_path / "000.tar"])
        with pytest.raises(ImageError, match="broken tar file"):
            item.content()
        assert not photos.exists(tmp_path / "000.tar" / "a.png")

    def test_a_shard_that_cannot_be_read(
        self, shard: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def closed(*given: object) -> None:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        tars._listing.cache_clear()
        monkeypatch.setattr(tarfile, "open", closed)
        with pytest.raises(ImageError, match=r"a\.png: Permission denied"):
            photos.content(shard / "a.png")

    def test_index_search_and_prune(self, database_url: str, shard: Path) -> None:
        options = ["-e", "phash64", "-d", database_url]
        outcome = command.succeed("index", shard, *options)
        assert outcome.out.startswith("phash64: 5 image files, 5 new")
        assert stored(database_url) == [
            (f"{shard}/a.png", "hat"),
            (f"{shard}/c.png", None),
            (f"{shard}/d.png", None),
            (f"{shard}/sub/b.left.png", "7"),
            (f"{shard}/sub/b.right.png", "7"),
        ]
        with example.connect(database_url) as connection:
            told = connection.execute("SELECT metadata FROM images ORDER BY path").fetchall()
        assert told[0] == ({"year": 2024, "label": "not this"},)
        assert "5 unchanged" in command.succeed("index", shard, *options).out
        sheet = shard.with_name("sheet.png")
        found = command.succeed("search", f"{shard}/a.png", *options, "--sheet", sheet)
        assert f"{shard}/a.png" in found.out
        assert sheet.exists()
        make_shard(shard, {"a.png": picture(1), "new.png": picture(8)})
        report = json.loads(command.succeed("index", shard, *options, "--prune", "--json").out)
        assert (report["unchanged"], report["inserted"], report["pruned"]) == (1, 1, 4)
        assert [path for path, _ in stored(database_url)] == [f"{shard}/a.png", f"{shard}/new.png"]

    def test_a_broken_shard_does_not_stop_the_run(self, database_url: str, shard: Path) -> None:
        whole = shard.read_bytes()
        cut = shard.with_name("cut.tar")
        cut.write_bytes(whole[: whole.index(b"c.png")])
        half = shard.with_name("half.tar")
        half.write_bytes(whole[:600])
        (shard.parent / "no.tar").write_bytes(b"no tar at all" * 100)
        with retrieval_db.connect(database_url) as db:
            report = db.index(
                cut, half, shard.with_name("no.tar"), shard,
                encoder=encoders_of_photos.create("phash64"),
            )  # fmt: skip
        assert report.inserted == 3 + 5
        reasons = {Path(path).name: reason for path, reason in report.skipped}
        assert reasons.pop("no.tar").startswith("a broken tar file")
        assert all("too soon" in text or "broken tar" in text for text in reasons.values())

    def test_metadata_change_without_encoding(self, database_url: str, tmp_path: Path) -> None:
        def index(told: bytes) -> retrieval_db.IndexReport:
            shard = make_shard(tmp_path / "000.tar", {"a.json": told, "a.png": picture(1)})
            with retrieval_db.connect(database_url) as db:
                return db.index(shard, encoder=encoders_of_photos.create("phash64"))

        def stored() -> object:
            with example.connect(database_url) as connection:
                return connection.execute("SELECT label, metadata FROM images").fetchone()

        assert index(b'{"year": 2024}').inserted == 1
        assert index(b'{"year": 2025, "of": [1]}').relabelled == 1
        assert stored() == (None, {"year": 2025, "of": [1]})
        assert index(b'{"of": [1],  "year": 2025}').relabelled == 0
        assert index(b'{"label": "hat"}').relabelled == 1
        assert index(b"[]").relabelled == 0
        assert stored() == ("hat", {"label": "hat"})

    def test_new_metadata_beside_another_writer(self, database_url: str, tmp_path: Path) -> None:
        """Who locks the same rows in another order is let through, and nothing is lost."""

        def index(year: int) -> int:
            told = json.dumps({"year": year}).encode()
            samples = {"a.json": told, "a.png": picture(1), "b.json": told, "b.png": picture(2)}
            shard = make_shard(tmp_path / "000.tar", samples)
            with retrieval_db.connect(database_url) as db:
                return db.index(shard, encoder=encoders_of_photos.create("phash64")).relabelled

        index(2024)
        with (
            ThreadPoolExecutor(1) as beside,
            example.connect(database_url) as other,
            example.connect(database_url) as watching,
        ):
            other.execute("SET deadlock_timeout = '1h'")
            with other.transaction():
                lock = "SELECT FROM images WHERE path LIKE %s FOR UPDATE"
                other.execute(lock, ["%/b.png"])
                relabelled = beside.submit(index, 2025)
                while not watching.execute("SELECT FROM pg_locks WHERE NOT granted").fetchall():
                    assert not relabelled.done()
                other.execute(lock, ["%/a.png"])
            assert relabelled.result() == 2
            found = watching.execute("SELECT metadata->'year' FROM images").fetchall()
        assert found == [(2025,), (2025,)]

    @pytest.mark.parametrize("damage", ["cut", "cut between members", "a header", "no tar"])
    def test_what_stands_behind_a_damage_is_not_gone(
        self, database_url: str, shard: Path, damage: str
    ) -> None:
        make_shard(shard, {name: picture(ord(name[0])) for name in ("a.png", "b.png", "c.png")})
        encoder = encoders_of_photos.create("phash64")
        with retrieval_db.connect(database_url) as db:
            assert db.index(shard, encoder=encoder).inserted == 3
            whole = shard.read_bytes()
            at = whole.index(b"b.png")
            shard.write_bytes(
                {
                    "cut": whole[: at + 700],
                    "cut between members": whole[:at],
                    "a header": whole[:at] + b"damage" + whole[at + 6 :],
                    "no tar": b"no tar" * 200,
                }[damage]
            )
            report = db.index(shard, encoder=encoder, prune=True)
            assert (report.gone, report.pruned) == ([], 0)
            assert "broken tar" in dict(report.skipped)[str(shard)]
            make_shard(shard, {"a.png": picture(97)})
            assert db.index(shard, encoder=encoder, prune=True).pruned == 2

    @pytest.mark.parametrize(
        "odd",
        [
            b'{"label": "hat", "score": NaN}',
            b'{"label": "hat", "score": 1e200000}',
            b'{"label": "hat", "text": "\\u0000"}',
            b'{"label": "\\ud800"}',
            b'{"label": "hat", "tree": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
            b"no JSON",
        ],
        ids=lambda text: text[:32].decode(),
    )
    def test_what_cannot_be_stored_beside_an_image(
        self, database_url: str, tmp_path: Path, odd: bytes
    ) -> None:
        """It says nothing of the image, and the run goes on."""
        shard = make_shard(
            tmp_path / "odd.tar",
            {"a.json": odd, "a.png": picture(1), "b.png": picture(2), "b.json": b'{"year": 2024}'}
            | {"c.cls": np.random.default_rng(0).bytes(4000).hex().encode(), "c.png": picture(3)},
        )
        with retrieval_db.connect(database_url) as db:
            assert db.index(shard, encoder=encoders_of_photos.create("phash64")).inserted == 3
            rows = db.connection.execute("SELECT label, metadata FROM images ORDER BY path")
            assert rows.fetchall() == [(None, None), (None, {"year": 2024}), (None, None)]

    def test_compressed_shards_are_refused(self, tmp_path: Path) -> None:
        (tmp_path / "a.tar.gz").touch()
        with pytest.raises(FormatError, match=r"unpack it to \.tar"):
            Sources([tmp_path / "a.tar.gz"]).count()


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

    def test_several_machines_one_table(
        self, database_url: str, cluster: object, tmp_path: Path
    ) -> None:
        folder = command.photos(tmp_path / "photos", [f"{n:03}.png" for n in range(90)])
        (folder / "broken.png").touch()
        options = ["-e", "phash64", "-d", database_url, "--root", folder]
        processes = [
            command.start("index", folder, *options, "--shard", f"{part}/3") for part in (1, 2, 3)
        ]
        for process in processes:
            _, err = process.communicate(timeout=120)
            assert process.returncode == 0, err
        assert len(stored(database_url)) == 90
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


def stored(url: str) -> list[tuple[str, str | None]]:
    with example.connect(url) as connection:
        return connection.execute(
            'SELECT path, label FROM images ORDER BY path COLLATE "C"'
        ).fetchall()


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
    assert os.path.exists(tmp_path)
