"""`duplicates` as a user types it: lists, groups, pages."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests import command


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three photos, one of them three times in other qualities."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(3):
        photo = command.photo(number).resize((200, 200))
        photo.save(folder / f"photo {number}.png")
        if number == 1:
            photo.save(folder / "copy <1>.jpg", quality=60)
            photo.resize((120, 120)).save(folder / "small.png")
    return folder


class TestCommand:
    @pytest.fixture
    def indexed(self, database_url: str, folder: Path) -> str:
        command.succeed("index", folder, "-e", "phash64", "-d", database_url, "--root", folder)
        return database_url

    def test_it_runs_as_a_program(self, indexed: str, tmp_path: Path) -> None:
        page = tmp_path / "copies.html"
        process = command.start("duplicates", "--group", "--json", "--html", page, "-d", indexed)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, err
        groups = json.loads(out)
        assert [sorted(image["path"] for image in group["images"]) for group in groups] == [
            ["copy <1>.jpg", "photo 1.png", "small.png"]
        ]
        assert b"1 group with 3 images of phash64 within 6 bits." in err
        text = page.read_text(encoding="utf-8")
        assert text.count("<img") == 3
        assert "copy &lt;1&gt;.jpg" in text
        assert "copy <1>" not in text

    def test_formats(self, indexed: str, tmp_path: Path) -> None:
        def printed(*options: object) -> str:
            return command.succeed("duplicates", "-d", indexed, *options).out

        pairs = json.loads(printed("--json"))
        assert len(pairs) == 3
        assert pairs[0].keys() == {"image_id_1", "image_id_2", "path_1", "path_2", "distance"}
        lines = printed("--jsonl", "--limit", 2).splitlines()
        assert [json.loads(line) for line in lines] == pairs[:2]
        csv = printed("--csv").splitlines()
        assert csv[0] == "image_id_1,image_id_2,path_1,path_2,distance"
        assert len(csv) == 4
        csv = printed("--csv", "--group").splitlines()
        assert csv[0] == "group,image_id,path,label"
        assert len(csv) == 4
        assert printed("--csv", "--group", "--radius", 0, "--since", 10**9).splitlines() == csv[:1]
        table = printed("--radius", 8)
        assert "small.png" in table
        page = tmp_path / "pairs.html"
        printed("--html", page)
        assert page.read_text(encoding="utf-8").count("<article>") == 3

    def test_a_page_counts_all_that_was_found(self, database_url: str, tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        folder = tmp_path / "photos"
        for label, seed in (("a", 1), ("b", 2), ("c", 3)):
            (folder / label).mkdir(parents=True)
            for number in range(3):
                command.photo(seed).save(folder / label / f"{number}.png")
        command.succeed("index", folder, "-e", "phash64", "--labels", "folder", "-d", database_url)
        written = ("--html", page, "-d", database_url)
        for options, kind, number, shown in (
            (["--group"], "group", 3, 3),
            (["--group", "--limit", 2], "group", 3, 2),
            (["--limit", 2], "pair", 9, 2),
        ):
            command.succeed("duplicates", *options, *written)
            text = page.read_text(encoding="utf-8")
            assert f"<dt>{kind}s</dt><dd>{number}</dd>" in text
            assert "<dt>images</dt><dd>9</dd>" in text
            assert text.count("<article>") == shown
            assert "<span>a</span>" in text
            left = {0: "", 1: f"1 further {kind} is not", 7: f"7 further {kind}s are not"}
            assert left[number - shown] in text
            assert ("linked" in text) == (kind == "group")

    def test_since(self, indexed: str) -> None:
        outcome = command.succeed("duplicates", "-d", indexed, "--since", 10**6)
        assert outcome.out == ""
        assert "No near-duplicates of phash64" in outcome.err
        outcome = command.succeed("duplicates", "-d", indexed, "--since", "2001-01-01", "--json")
        assert len(json.loads(outcome.out)) == 3

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--since", "soon"], "2025-01-31"),
            (["--json", "--csv"], "one of"),
            (["--html", "/no/such/folder/x.html"], "Cannot write"),
        ],
    )
    def test_wrong_usage(self, indexed: str, options: list[str], message: str) -> None:
        outcome = command.run("duplicates", "-d", indexed, *options)
        assert outcome.code == 2
        assert message in outcome.err
        assert outcome.out == ""
