"""Query sets: labelled codes, and the rankings of the live table that they get."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from .. import codes
from ..database import Connection, translated
from ..encoders import StoredEncoder, takes_features
from ..errors import UsageError
from ..interchange import CodeSet
from ..sql import queries
from .ties import Ties

SQL = queries("evaluation")

# Queries that one statement ranks the table for.
AT_ONCE = 64

ALL_TRAINED = (
    "The encoder was trained on every one of these queries. Ask with images that it has not seen."
)


@dataclass(frozen=True)
class QuerySet:
    """Queries for the live table.

    Attributes:
        words: int64 [Q, 4], their codes.
        labels: Q labels.
        content_sha256: of each image, 32 bytes, or None.
        ids: of those that are rows of the table, else None.
        features: float32 [Q, D]; None unless every query has one.
        left_out: how many were not taken, by the reason.
    """

    words: NDArray[np.int64]
    labels: tuple[str, ...]
    content_sha256: tuple[bytes | None, ...]
    ids: tuple[int | None, ...]
    features: NDArray[np.float32] | None = None
    left_out: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.words)

    @classmethod
    def of(cls, items: CodeSet) -> QuerySet:
        """Codes with labels; those without a label are left out.

        Raises:
            UsageError: none has a label.
        """
        labels = items.labels or [None] * len(items)
        rows = np.array([row for row, label in enumerate(labels) if label], dtype=np.intp)
        if not len(rows):
            raise UsageError("The queries have no labels, so nothing says what is relevant.")
        hashes, known = items.content_sha256, items.known_hashes
        features = None
        if items.features is not None and items.known_features[rows].all():
            features = items.features[rows].astype(np.float32)
        return cls(
            words=codes.to_words(items.codes[rows], items.bits),
            labels=tuple(str(labels[row]) for row in rows),
            content_sha256=tuple(
                None if hashes is None or not known[row] else hashes[row].tobytes() for row in rows
            ),
            ids=(None,) * len(rows),
            features=features,
            left_out=_counted({"without a label": len(items) - len(rows)}),
        )

    def take(self, rows: NDArray[np.intp]) -> QuerySet:
        """Some of the queries."""
        return replace(
            self,
            words=self.words[rows],
            labels=tuple(self.labels[row] for row in rows),
            content_sha256=tuple(self.content_sha256[row] for row in rows),
            ids=tuple(self.ids[row] for row in rows),
            features=None if self.features is None else self.features[rows],
        )

    def unseen(self, training: NDArray[np.uint8] | None) -> QuerySet:
        """The queries that an encoder was not trained on.

        Args:
            training: uint8 [N, ≤ 32], the SHA-256 of each image it was trained on, or the
                first bytes of each; None if that is not known.

        Raises:
            UsageError: it was trained on all of them.
        """
        rows = np.flatnonzero(~trained_on(self.content_sha256, training))
        if not len(rows):
            raise UsageError(ALL_TRAINED)
        seen = _counted({"the encoder was trained on": len(self) - len(rows)})
        return replace(self.take(rows), left_out=self.left_out | seen)


def drawn(connection: Connection, encoder: StoredEncoder, count: int, *, seed: int = 0) -> QuerySet:
    """Labelled rows of the table as queries, drawn with a seed, with features if they have any.

    Raises:
        UsageError: no row has a label, or no query is wanted.
    """
    if count < 1:
        raise UsageError(f"At least one query is drawn, not {count}.")
    values = {"encoder": encoder.id, "count": count, "seed": seed}
    with translated(connection):
        rows = connection.execute(SQL["drawn"], values).fetchall()
        if not rows:
            raise UsageError(
                f"The images of {encoder.name!r} have no labels, so nothing says what is "
                "relevant. `retrieval-db index PHOTOS --labels folder` gives them."
            )
        ids = [int(row[0]) for row in rows]
        features = _features(connection, ids)
    return QuerySet(
        words=np.array([row[1:5] for row in rows], dtype=np.int64),
        labels=tuple(row[5] for row in rows),
        content_sha256=tuple(None if row[6] is None else bytes(row[6]) for row in rows),
        ids=tuple(ids),
        features=features,
    )


def table_ties(
    connection: Connection,
    encoder: StoredEncoder,
    asked: QuerySet,
    *,
    progress: Callable[[int], None] = lambda queries: None,
) -> Ties:
    """Rank an encoder's rows by Hamming distance, in the database and all in one snapshot.

    Each query leaves out its own row and those of the same content. Rows without a label are
    ranked, and relevant to nothing.

    Args:
        connection: in autocommit mode.

    Returns:
        Ties with L + 1 levels: level d is Hamming distance d.
    """
    size = np.zeros((len(asked), encoder.bits + 1), dtype=np.int64)
    relevant = np.zeros_like(size)
    with translated(connection), connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        for start in range(0, len(asked), AT_ONCE):
            part = asked.take(np.arange(start, min(start + AT_ONCE, len(asked))))
            values = {f"q{word + 1}": part.words[:, word].tolist() for word in range(codes.WORDS)}
            values |= {
                "encoder": encoder.id,
                "labels": list(part.labels),
                "ids": list(part.ids),
                "hashes": list(part.content_sha256),
            }
            counted = connection.execute(SQL["counts"], values, binary=True).fetchall()
            if counted:
                number, distance, n, r = np.array(counted, dtype=np.int64).T
                size[start + number - 1, distance] = n
                relevant[start + number - 1, distance] = r
            progress(len(part))
    return Ties(size, relevant)


def trained_on(
    content_sha256: Sequence[bytes | None], training: NDArray[np.uint8] | None
) -> NDArray[np.bool_]:
    """Which of Q images are among those that an encoder was trained on, bool [Q].

    Args:
        training: as in `QuerySet.unseen`.
    """
    if training is None:
        return np.zeros(len(content_sha256), dtype=np.bool_)
    size = training.shape[1]
    known = {row.tobytes() for row in training}
    return np.array([d is not None and d[:size] in known for d in content_sha256], dtype=np.bool_)


def own_rows(
    connection: Connection, encoder: StoredEncoder, asked: QuerySet
) -> list[frozenset[int]]:
    """For each query the ids of the rows it leaves out: its own, and those of its content."""
    hashes = sorted({digest for digest in asked.content_sha256 if digest is not None})
    alike: dict[bytes, set[int]] = {}
    with translated(connection):
        for number, digest in connection.execute(SQL["same_content"], [encoder.id, hashes]):
            alike.setdefault(bytes(digest), set()).add(number)
    return [
        frozenset((alike.get(digest, set()) if digest else set()) | ({own} if own else set()))
        for own, digest in zip(asked.ids, asked.content_sha256, strict=True)
    ]


def _features(connection: Connection, ids: Sequence[int]) -> NDArray[np.float32] | None:
    """The features of these rows, if all have one."""
    if not takes_features(connection):
        return None
    found: dict[int, list[float]] = dict(
        connection.execute(SQL["features_of"], [list(ids)]).fetchall()
    )
    if not all(number in found for number in ids):
        return None
    return np.array([found[number] for number in ids], dtype=np.float32)


def _counted(reasons: dict[str, int]) -> dict[str, int]:
    return {reason: number for reason, number in reasons.items() if number}
