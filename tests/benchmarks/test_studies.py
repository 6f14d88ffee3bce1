"""The studies' page repeats their result files, and their codes can be drawn again."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from benchmarks import (
    formats,
    indexing_tables,
    memory_tables,
    pages,
    search_tables,
    study,
    workloads,
)


@pytest.mark.parametrize("tables", [formats, indexing_tables, memory_tables, search_tables])
def test_the_page_repeats_the_result_files(tables: ModuleType) -> None:
    page = tables.PAGE.read_text()
    assert page == tables.written(page), f"Write it anew with {tables.BEGIN}."


def test_the_readme_repeats_the_result_files() -> None:
    page = search_tables.README.read_text()
    assert page == search_tables.readme_written(page), f"Write it anew with {search_tables.BEGIN}."


def test_the_page_of_evaluation_repeats_its_result_files() -> None:
    clothing = pytest.importorskip("benchmarks.clothing", reason="the extra `encoder` is absent")
    page = clothing.PAGE.read_text()
    assert page == clothing.written(page), "Run python -m benchmarks.clothing --tables."


def test_a_page_without_its_markers_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="not both markers"):
        pages.replaced("A page.", ["| table |"], search_tables.BEGIN)


def test_a_ledger_goes_on_where_it_was_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "RESULTS", tmp_path)
    monkeypatch.setattr(study, "ROOT", tmp_path)
    first = study.Ledger("x", ("method", "seed"), {"data": "D"})
    first.add(method="itq", seed=0, map=0.5)
    again = study.Ledger("x", ("method", "seed"), {"data": "D"})
    assert again.has("itq", 0)
    assert not again.has("itq", 1)
    again.add(method="itq", seed=1, map=0.7)
    content = json.loads((tmp_path / "x.json").read_text())
    assert [line["map"] for line in content["lines"]] == [0.5, 0.7]
    assert all(line["commit"] and line["command"] for line in content["lines"])
    with pytest.raises(SystemExit, match="another data"):
        study.Ledger("x", ("method", "seed"), {"data": "E"})


def test_shares_are_written_with_four_places() -> None:
    assert [pages.share(value) for value in (0.5, 1.0, -0.0123, -1e-6)] == [
        ".5000",
        "1.0000",
        "−.0123",
        ".0000",
    ]
    assert pages.spread([0.5]) == ".5000"
    assert pages.spread([0.4, 0.6, 0.5]) == ".5000 ± .1000"


def test_a_table_that_is_loaded_already_gets_fresh_queries() -> None:
    loaded, _ = workloads.clustered(3_000, 1, seed=7)
    packed, asked = workloads.clustered(3_000, 50, seed=7)
    assert (loaded == packed).all()
    assert asked.shape == (50, 16)
    other, _ = workloads.clustered(3_000, 1, seed=8)
    assert (other != packed).any()


def test_recall_counts_ties() -> None:
    peers = pytest.importorskip("benchmarks.peers", reason="the extra `benchmarks` is absent")
    true = [(4, 1), (9, 2), (2, 3)]
    nearest, near = peers.Question(k=3), peers.Question(radius=3)
    assert peers.recall([(4, 1), (9, 2), (7, 3)], true, nearest) == 1
    assert peers.recall([(4, 1), (7, 3), (8, 3), (5, 3)][:3], true, nearest) == 1
    assert peers.recall([(4, 1), (6, 4)], true, nearest) == pytest.approx(1 / 3)
    assert peers.recall([(4, 1)], true, near) == pytest.approx(1 / 3)
    assert peers.recall([], [], near) == 1


def test_peers_agree_on_tied_codes() -> None:
    peers = pytest.importorskip("benchmarks.peers", reason="the extra `benchmarks` is absent")
    packed, asked = workloads.clustered(2_000, 5, seed=3)
    packed[1_000:] = packed[:1_000]
    flat, duck = peers.FaissFlat(packed), peers.DuckDb(packed)
    (hashed,) = peers.FaissMultiHash.build(packed, [8])
    for code in peers.Code.all(np.concatenate([asked, packed[:3]]), 128):
        for question in (peers.Question(k=7), peers.Question(radius=25)):
            answers = [peer.ask(code, question) for peer in (flat, duck, hashed)]
            distances = [[distance for _, distance in answer] for answer in answers]
            assert distances[0] == distances[1] == distances[2]
