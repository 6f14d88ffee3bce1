"""Evaluations of rankings; and the live table, which gives the same numbers as memory."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from numpy.typing import NDArray

from retrieval_db import connect, evaluation, loading
from retrieval_db.database import Connection
from retrieval_db.encoders import StoredEncoder, find
from retrieval_db.errors import EncoderConflict, UsageError
from retrieval_db.evaluation import QuerySet, Ties, query_sets, ties
from retrieval_db.evaluation.metrics import average_precision
from retrieval_db.interchange import CodeSet
from tests.evaluation.labelled import BITS, labelled


def in_memory(asked: CodeSet, items: CodeSet, *, own: bool = False) -> Ties:
    """The same rankings with NumPy; `own` if the queries are rows of the table."""
    assert asked.labels is not None
    assert items.labels is not None
    assert asked.content_sha256 is not None
    assert items.content_sha256 is not None
    left_out = [
        np.flatnonzero((items.content_sha256 == digest).all(axis=1))
        for digest in asked.content_sha256
    ]
    if own:
        rows = [items.paths.index(path) for path in asked.paths]
        left_out = [np.union1d(gone, [row]) for gone, row in zip(left_out, rows, strict=True)]
    return ties.by_label(
        asked.codes,
        items.codes,
        BITS,
        [label or "" for label in asked.labels],
        [label or "" for label in items.labels],
        left_out=left_out,
    )


def test_the_live_table_ranks_as_memory_does(
    connection: Connection, filled: tuple[CodeSet, StoredEncoder], monkeypatch: pytest.MonkeyPatch
) -> None:
    items, encoder = filled
    monkeypatch.setattr(query_sets, "AT_ONCE", 7)
    given = labelled("clustered", 40, seed=3)
    asked = QuerySet.of(given)
    assert len(asked) == 36
    assert asked.left_out == {"without a label": 4}
    table = query_sets.table_ties(connection, encoder, asked)
    kept = given.take(labels_of(given))
    memory = in_memory(kept, items)
    assert np.array_equal(table.size, memory.size)
    assert np.array_equal(table.relevant, memory.relevant)
    assert memory.total.min() < 150, "rows of the query's content are left out"
    for k in (None, 10, 1000):
        scores = [evaluation.evaluate("x", one, k=k) for one in (table, memory)]
        assert scores[0].as_dict() == scores[1].as_dict()


def test_the_library_in_one_call(database_url: str, filled: tuple[CodeSet, StoredEncoder]) -> None:
    items, _ = filled
    with connect(database_url) as db:
        found = db.evaluate(items, encoder="example", k=None)
        memory = evaluation.evaluate("example", in_memory(items.take(labels_of(items)), items))
        assert found.left_out == {"without a label": 14}
        assert found.mean_average_precision == pytest.approx(memory.mean_average_precision)
        assert db.evaluate(20, encoder="example", k=10).queries == 20
        assert db.health("example").images == 150
        with pytest.raises(EncoderConflict):
            db.evaluate(replace(items, fingerprint="another"), encoder="example")


def labels_of(items: CodeSet) -> NDArray[np.intp]:
    """The rows with a label."""
    return np.flatnonzero([label is not None for label in items.labels or ()])


def test_rows_of_the_table_leave_themselves_out(
    connection: Connection, filled: tuple[CodeSet, StoredEncoder]
) -> None:
    items, encoder = filled
    asked = query_sets.drawn(connection, encoder, 30, seed=4)
    assert len(set(asked.ids)) == 30
    again = query_sets.drawn(connection, encoder, 30, seed=4)
    assert asked.ids == again.ids
    assert asked.ids != query_sets.drawn(connection, encoder, 30, seed=5).ids
    found = connection.execute(
        "SELECT id, path FROM images WHERE id = ANY (%s)", [list(asked.ids)]
    ).fetchall()
    paths: dict[int, str] = dict(found)
    rows = np.array([items.paths.index(paths[number]) for number in asked.ids if number])
    memory = in_memory(items.take(rows), items, own=True)
    table = query_sets.table_ties(connection, encoder, asked)
    assert np.array_equal(table.size, memory.size)
    assert np.array_equal(table.relevant, memory.relevant)
    own = query_sets.own_rows(connection, encoder, asked)
    assert [len(one) for one in own] == (150 - table.total).tolist()
    assert all(number in one for number, one in zip(asked.ids, own, strict=True))
    assert len(query_sets.drawn(connection, encoder, 1000)) == 136, "those with a label"


def test_queries_that_were_trained_on_are_left_out(
    connection: Connection, filled: tuple[CodeSet, StoredEncoder]
) -> None:
    items, encoder = filled
    assert items.content_sha256 is not None
    asked = query_sets.drawn(connection, encoder, 50, seed=1)
    training = items.content_sha256[:75]
    for hashes in (training, training[:, :8]):
        unseen = asked.unseen(hashes)
        assert unseen.left_out == {"the encoder was trained on": 50 - len(unseen)}
        assert 0 < len(unseen) < 50
        known = {row.tobytes() for row in training}
        assert not known & set(unseen.content_sha256)
    assert len(asked.unseen(None)) == 50
    with pytest.raises(UsageError, match="trained on every one"):
        asked.unseen(items.content_sha256)


def test_without_labels_nothing_is_relevant(connection: Connection) -> None:
    items = replace(labelled("uniform", 9), labels=None)
    loading.load(connection, items)
    with pytest.raises(UsageError, match="--labels folder"):
        query_sets.drawn(connection, find(connection, "example"), 5)
    with pytest.raises(UsageError, match="no labels"):
        QuerySet.of(items)


def test_every_number_of_an_evaluation() -> None:
    random = np.random.default_rng(0)
    far, labels = random.integers(0, 9, (6, 40)), random.integers(0, 4, 40)
    wanted = np.array([0, 1, 2, 3, 7, 0])
    relevant = labels == wanted[:, None]
    rankings = [Ties.of(row, good) for row, good in zip(far, relevant, strict=True)]
    found = evaluation.evaluate("made", rankings, k=10, hamming=False)
    for denominator, value in (
        ("relevant", found.mean_average_precision),
        ("found", found.mean_average_precision_found),
    ):
        each = [
            average_precision(row, good, 10, denominator=denominator)  # type: ignore[arg-type]
            for row, good in zip(far, relevant, strict=True)
        ]
        assert value == pytest.approx(np.mean(each))
    assert (found.queries, found.database, found.k, found.clipped) == (6, 40, 10, None)
    assert found.without_relevant == 1
    assert found.radius is None
    assert found.precision_at.ranks.tolist() == list(range(1, 11))
    assert found.precision_at.at(11) is None
    json.dumps(found.as_dict())


def test_k_beyond_the_database_is_clipped_and_said() -> None:
    ranking = Ties.of([0, 1, 2], [True, False, True])
    assert evaluation.evaluate("made", ranking, k=1000, hamming=False).clipped == 1000
    assert evaluation.evaluate("made", ranking, k=3, hamming=False).clipped is None
    whole = evaluation.evaluate("made", ranking, hamming=False)
    assert (whole.k, whole.clipped) == (3, None)


def test_nothing_to_evaluate_is_refused() -> None:
    empty = Ties(np.zeros((0, 5), dtype=np.int64), np.zeros((0, 5), dtype=np.int64))
    with pytest.raises(UsageError, match="empty"):
        evaluation.evaluate("made", Ties(np.zeros((1, 5), np.int64), np.zeros((1, 5), np.int64)))
    nothings: list[Ties | list[Ties]] = [empty, []]
    for nothing in nothings:
        with pytest.raises(UsageError, match="no query"):
            evaluation.evaluate("made", nothing)


def test_the_predicted_label_scores_its_accuracy() -> None:
    database = np.repeat(np.arange(5), 20)
    wanted = np.array([0, 1, 2, 3, 4, 0, 1, 2])
    predicted = wanted.copy()
    predicted[:2] = [3, -1]
    ranking = evaluation.by_prediction(predicted, wanted, database)
    found = evaluation.evaluate("label", ranking, k=20, hamming=False)
    assert found.precision_at.at(20) == pytest.approx((6 + 20 / 80 * 0 + 20 / 100) / 8)
    right = evaluation.by_prediction(predicted[2:], wanted[2:], database)
    assert evaluation.evaluate("label", right, k=20).mean_average_precision == pytest.approx(1)


def test_cosine_ranks_by_the_angle() -> None:
    features = np.array([[1, 0], [10, 1], [0, 3], [-1, 0]], dtype=np.float32)
    ranking = evaluation.by_cosine(np.array([[2.0, 0.1]]), features, [1], [1, 0, 1, 0])
    found = evaluation.evaluate("cosine", ranking, hamming=False)
    # The order is 1 (irrelevant), 0 (relevant), 2 (relevant), 3.
    assert found.mean_average_precision == pytest.approx((1 / 2 + 2 / 3) / 2)


def test_baselines_without_what_is_left_out() -> None:
    """As if those rows were not in the database of that query."""
    random = np.random.default_rng(0)
    features, queries = (random.standard_normal((count, 4)) for count in (30, 5))
    labels, wanted, words = (random.integers(0, 3, count) for count in (30, 5, 5))
    left_out = [np.array(rows, dtype=np.int64) for rows in ([], [3], [0, 7, 29], [], [5, 6])]
    cosine = list(evaluation.by_cosine(queries, features, wanted, labels, left_out=left_out))
    named = evaluation.by_prediction(words, wanted, labels, left_out=left_out)
    for row, own in enumerate(left_out):
        one, kept = slice(row, row + 1), np.delete(np.arange(30), own)
        (alone,) = evaluation.by_cosine(queries[one], features[kept], wanted[one], labels[kept])
        assert np.array_equal(cosine[row].relevant, alone.relevant)
        alone = evaluation.by_prediction(words[one], wanted[one], labels[kept])
        assert np.array_equal(named.size[row], alone.size[0])
        assert np.array_equal(named.relevant[row], alone.relevant[0])
