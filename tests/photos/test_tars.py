"""Photos in tar shards, with labels and metadata beside them; whole, changed and broken."""

from __future__ import annotations

import errno
import json
import os
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import retrieval_db
from retrieval_db import encoder as encoders_of_photos
from retrieval_db import photos
from retrieval_db.errors import FormatError, ImageError
from retrieval_db.photos import Sources, tars
from tests import command, example
from tests.example import rows
from tests.photos.shards import make_shard, picture


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
        assert rows(database_url) == [
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
        assert [path for path, _ in rows(database_url)] == [f"{shard}/a.png", f"{shard}/new.png"]

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
