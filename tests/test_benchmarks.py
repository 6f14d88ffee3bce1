"""The studies' page repeats their result files, and their codes can be drawn again."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest

from benchmarks import formats, indexing_tables, memory_tables, pages, search_tables, workloads


@pytest.mark.parametrize("tables", [formats, indexing_tables, memory_tables, search_tables])
def test_the_page_repeats_the_result_files(tables: ModuleType) -> None:
    page = tables.PAGE.read_text()
    assert page == tables.written(page), f"Write it anew with {tables.BEGIN}."


def test_the_page_of_evaluation_repeats_its_result_files() -> None:
    clothing = pytest.importorskip("benchmarks.clothing", reason="the extra `encoder` is absent")
    page = clothing.PAGE.read_text()
    assert page == clothing.written(page), "Run python -m benchmarks.clothing --tables."


def test_a_page_without_its_markers_is_left_alone() -> None:
    with pytest.raises(SystemExit, match="not both markers"):
        pages.replaced("A page.", ["| table |"], search_tables.BEGIN)


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
