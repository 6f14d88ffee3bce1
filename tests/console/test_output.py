"""What commands print and write: tables, JSON, CSV, pages, reports."""

from __future__ import annotations

import csv
import io
import json
import re
import subprocess
from pathlib import Path

from tests import command, postgres
from tests.command import answers
from tests.console.conftest import NAMES


class TestFormats:
    """One answer for people, three for programs, and files."""

    def test_all_say_the_same(self, url: str, folder: Path, tmp_path: Path) -> None:
        query = ["search", folder / NAMES[0], folder / NAMES[5], "-k", "3"]
        whole = json.loads(command.succeed(*query, "--json").out)
        lines = [json.loads(line) for line in command.succeed(*query, "--jsonl").out.splitlines()]
        assert [line["hits"] for line in lines] == [answer["hits"] for answer in whole]
        text = command.succeed(*query, "--csv").out
        rows = list(csv.DictReader(io.StringIO(text)))
        assert "\r" not in text
        assert [(row["query"], row["path"], int(row["distance"])) for row in rows] == [
            (answer["query"], hit["path"], hit["distance"])
            for answer in whole
            for hit in answer["hits"]
        ]
        for style in ("--json", "--jsonl", "--csv"):
            outcome = command.succeed(*query, style, "-o", tmp_path / "out")
            assert outcome.out == ""
            written = (tmp_path / "out").read_text()
            assert re.sub(r"[\d.]+", "", written) == re.sub(
                r"[\d.]+", "", command.succeed(*query, style).out
            )

    def test_nothing_is_printed_before_the_first_answer(self, shared: tuple[str, Path]) -> None:
        for style in ("--csv", "--json"):
            outcome = command.run("search", "--id", 0, style, "-d", shared[0])
            assert (outcome.code, outcome.out) == (1, "")
            assert "no image" in outcome.err

    def test_a_table_is_not_folded(self, database_url: str, tmp_path: Path) -> None:
        name = "a folder with a long name " * 6
        folder = command.photos(tmp_path / name / name, ["a photo.png"])
        command.succeed("index", folder, "-e", "phash64", "-d", database_url)
        outcome = command.succeed("search", folder / "a photo.png", "-d", database_url)
        assert outcome.out.count(f"{folder}/a photo.png") == 2
        assert "1 image of phash64, coarse stage: by Hamming distance, exact, " in outcome.out
        outcome = command.succeed("info", "-d", database_url)
        assert all(len(line) < 200 for line in outcome.out.splitlines())

    def test_the_source(self, shared: tuple[str, Path]) -> None:
        url, folder = shared
        asked = (folder / "hats", "--id", 3, "--label", "shoes", "-k", 3, "-d", url)
        found = {source: answers(*asked, "--source", source) for source in ("database", "memory")}
        for source, given in found.items():
            assert {answer["source"] for answer in given} == {source}
        hits = [[answer["hits"] for answer in given] for given in found.values()]
        assert len(hits[0]) == 5
        assert hits[0] == hits[1]
        outcome = command.succeed("search", "--id", 3, "--source", "memory", "--explain", "-d", url)
        assert "plan scan in memory" in outcome.out
        assert outcome.err.count("Read 8 codes of phash64 into memory; ") == 1
        refused = command.run("search", "--id", 3, "--source", "memory", "--max-ms", 1, "-d", url)
        assert refused.code == 2
        assert "every code is compared" in refused.err

    def test_an_explanation(self, url: str) -> None:
        out = command.succeed("search", "--id", 1, "--explain").out
        assert "plan " in out
        assert "guaranteed radius" in out

    def test_page_and_sheet(self, url: str, folder: Path, tmp_path: Path) -> None:
        page, sheet = tmp_path / "page.html", tmp_path / "sheet.png"
        outcome = command.succeed("search", folder / NAMES[0], "--html", page, "--sheet", sheet)
        assert "search_codes(" in page.read_text()
        assert sheet.read_bytes().startswith(b"\x89PNG")
        assert f"Wrote {page}" in outcome.err

    def test_a_stored_image_is_shown(self, shared: tuple[str, Path], tmp_path: Path) -> None:
        page = tmp_path / "page.html"
        command.succeed("search", "--id", 1, "-k", 1, "--html", page, "-d", shared[0])
        assert page.read_text().count("<img") == 2

    def test_index_and_load_reports(self, url: str, folder: Path, tmp_path: Path) -> None:
        outcome = command.succeed("index", folder, "-e", "phash64", "--json")
        report = json.loads(outcome.out)
        profile = report.pop("profile")
        assert [profile[stage]["images"] for stage in ("read", "decode", "write")] == [8, 0, 0]
        assert report | {"seconds": 0} == {
            "encoder": "phash64", "found": 8, "encoded": 0, "unchanged": 8, "skipped": [],
            "inserted": 0, "updated": 0, "repeated": 0, "relabelled": 0, "gone": [], "pruned": 0,
            "moved_from": None, "seconds": 0,
        }  # fmt: skip
        outcome = command.succeed("index", folder, "-e", "phash64")
        assert outcome.out.startswith("phash64: 8 image files, 0 new, 0 changed, 8 unchanged")
        assert "Database: " in outcome.err
        assert "Indexing 8 image files with phash64 (64 bits)." in outcome.err
        command.succeed("encode", folder, "-e", "phash64", "-o", tmp_path / "q.npz")
        outcome = command.succeed("load", tmp_path / "q.npz", "--json")
        assert json.loads(outcome.out) | {"seconds": 0} == {
            "encoder": "phash64", "inserted": 0, "updated": 8, "seconds": 0, "repeated": 0,
        }  # fmt: skip

    def test_info_and_status(self, url: str) -> None:
        found = json.loads(command.succeed("info", "--json").out)
        assert found["encoders"] == json.loads(command.succeed("encoders", "list", "--json").out)
        assert (found["encoders"][0]["name"], found["encoders"][0]["images"]) == ("phash64", 8)
        out = command.succeed("info").out
        assert "RETRIEVAL_DB_URL" in out
        assert "images" in out
        status = json.loads(command.succeed("db", "status", "--json").out)
        assert status["running"] is True
        assert "running" in command.succeed("db", "status").out

    def test_the_url_is_for_psql(self, url: str, cluster: postgres.Cluster) -> None:
        sqlalchemy = url.replace("postgresql://", "postgresql+psycopg://")
        printed = command.succeed("db", "url", "-d", sqlalchemy).out.strip()
        done = subprocess.run(
            [cluster.installation.program("psql"), printed, "-XAtc", "SELECT count(*) FROM images"],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        assert done.stdout == "8\n"
