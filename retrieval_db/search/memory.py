"""An encoder's codes in memory, as a second source of the same answers.

The codes are read from the table once and searched by brute force (`flat`). They are never
stale: the statement that fetches the paths and labels of an answer also says, in the same
snapshot, whether images have changed since the codes were read. Triggers on `images` note
every change in its own transaction (`image_changes`), so it is seen exactly when it is
committed. What has changed is then fetched, and the search runs again.

Order is what makes this sound: the horizon, from which on changes are asked for, is taken
before anything is read. What changes in between is read twice, never missed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray
from psycopg.types.json import Jsonb

from .. import arguments, codes
from ..database import Connection, in_transaction, translated
from ..encoders import StoredEncoder
from ..errors import DatabaseError, UnknownEncoder, UsageError, WrongWidth
from ..sql import queries
from . import flat, resident
from .batch import NONE, BatchResult, columns
from .query import Query, check_comparable, checked_bounds, vector_text
from .resident import ResidentCodes
from .single import Hit, Metric, SearchResult, Stage, choose_stage

SQL = queries("memory")

# Fetching the rows that changed pays up to one row in so many (or this many in all).
FEW_SHARE = 10
FEW = 1_000

# In the caller's own transaction others may go on changing images under a search.
TRIES = 20

Answer = TypeVar("Answer")


class _Changed(Exception):
    """Images have changed since the codes were read."""


class MemorySource:
    """The codes of one encoder in memory; see `Database.memory_source`.

    They are read at the first search, and kept. Use it in one thread at a time.

    Attributes:
        encoder: whose codes.
        full_reads, partial_reads: how often all codes were read, and how often only those that
            had changed.
    """

    def __init__(
        self, connection: Connection, encoder: StoredEncoder, *, index: flat.Factory | None = None
    ) -> None:
        """Nothing is read yet.

        Args:
            connection: to a migrated database.
            encoder: whose codes.
            index: makes what searches them, such as `flat.NumPyIndex`; by default FAISS where
                it is installed, else NumPy.
        """
        self.connection = connection
        self.encoder = encoder
        self.full_reads = 0
        self.partial_reads = 0
        self._make_index = index or flat.default
        self._horizon: Jsonb | None = None
        self._use(resident.empty(encoder.bits))

    def __len__(self) -> int:
        """How many codes are in memory."""
        return len(self._codes.ids)

    @property
    def nbytes(self) -> int:
        """Bytes of ids, codes and labels; an index other than NumPy's holds the codes again."""
        return self._codes.nbytes

    @property
    def index_name(self) -> str:
        """What searches the codes, such as `numpy`."""
        return self._index.name

    def refresh(self) -> None:
        """Bring the codes up to date, as every search does by itself.

        Raises:
            DatabaseError: changes are not noted, so that nobody could say whether they are.
        """
        with translated(self.connection):
            self._refresh()

    def search(
        self,
        query: Query,
        *,
        k: int | None = 10,
        radius: int | None = None,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        stage: Stage = "auto",
        pool: int = 200,
        pool_max: int | None = None,
        metric: Metric = "cosine",
    ) -> SearchResult:
        """Find the images whose codes are nearest to the query's; see `search.search`.

        The answer is the database's, row for row. Every code that passes the filters is
        compared: it is exact, and its guaranteed radius is L.

        Raises:
            UsageError, WrongWidth, MissingExtension: as `search.search`.
            UnknownEncoder: the encoder was removed.
            DatabaseError: changes of images are not noted, so that nobody could say whether the
                codes are stale; or they come faster than they can be read.
        """
        started = time.perf_counter()
        check_comparable(self.encoder, query)
        arguments.one_of("metric", metric, get_args(Metric))
        labels = arguments.texts("labels", labels)
        packed = self._packed(np.array([query.words], dtype=np.int64))
        with translated(self.connection):
            stage = choose_stage(self.connection, self.encoder, query, stage)
            k, radius = checked_bounds(k, radius, stage)
            if stage == "fine":
                pool, pool_max = _checked_pool(pool, pool_max)
                wanted = max(pool, k or 0)
                most = 10 * wanted if pool_max is None else pool_max
                wanted = min(wanted, most)

                def attempt() -> SearchResult:
                    # One row beyond the largest pool tells whether the last tie is whole.
                    found = self._nearest(packed, most + 1, radius, labels, metadata)[0]
                    return self._fine(query, _with_whole_tie(found, wanted), k, most, metric)
            else:

                def attempt() -> SearchResult:
                    return self._coarse(self._nearest(packed, k, radius, labels, metadata)[0])

            result = self._up_to_date(attempt)
        return replace(result, milliseconds=(time.perf_counter() - started) * 1000)

    def search_batch(
        self,
        packed: NDArray[np.uint8],
        *,
        k: int | None = 10,
        radius: int | None = None,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> BatchResult:
        """Find the images nearest to each of many codes; see `search.search_batch`."""
        k, radius = checked_bounds(k, radius, "coarse")
        labels = arguments.texts("labels", labels)
        wanted = self._packed(codes.to_words(packed, self.encoder.bits))

        def attempt() -> list[tuple[NDArray[np.int32], NDArray[np.int64]]]:
            found = self._nearest(wanted, k, radius, labels, metadata)
            row = self.connection.execute(SQL["changed"], self._given()).fetchone()
            assert row is not None
            self._check_unchanged(row)
            return [self._distances_and_ids(keys) for keys in found]

        with translated(self.connection):
            answers = self._up_to_date(attempt)
        width = columns(k, len(answers), max((len(ids) for _, ids in answers), default=0))
        result = BatchResult(
            ids=np.full((len(answers), width), NONE, dtype=np.int64),
            distances=np.full((len(answers), width), NONE, dtype=np.int32),
            exact=np.ones(len(answers), dtype=np.bool_),
            guaranteed_radius=np.full(len(answers), self.encoder.bits, dtype=np.int32),
        )
        for row, (distances, ids) in enumerate(answers):
            result.ids[row, : len(ids)] = ids
            result.distances[row, : len(ids)] = distances
        return result

    # Freshness

    def _up_to_date(self, attempt: Callable[[], Answer]) -> Answer:
        """The first answer that holds."""
        if self._horizon is not None:
            with suppress(_Changed):
                return attempt()
        # With one snapshot for all that follows, writers cannot keep a search from ending.
        with self._one_snapshot():
            for _ in range(TRIES):
                self._refresh()
                with suppress(_Changed):
                    return attempt()
        raise DatabaseError(
            "Images change faster than they can be read in this transaction. Search outside of "
            "it, in one that is REPEATABLE READ, or with source 'database'."
        )

    @contextmanager
    def _one_snapshot(self) -> Iterator[None]:
        """A transaction of our own, unless the caller has one."""
        if in_transaction(self.connection):
            yield
            return
        with self.connection.transaction():
            self.connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield

    def _refresh(self) -> None:
        """Read what has changed since the codes were read; all of them where that is unknown."""
        horizon = self.connection.execute(SQL["horizon"]).fetchone()
        assert horizon is not None
        changed = self._changed_ids()
        if changed is None:
            # The old codes go first: there need not be room for both.
            self._horizon = None
            self._use(resident.empty(self.encoder.bits))
            self._use(resident.read(self.connection, self.encoder))
            self.full_reads += 1
        elif len(changed):
            self._use(resident.reread(self.connection, self.encoder, self._codes, changed))
            self.partial_reads += 1
        self._horizon = Jsonb(horizon[0])

    def _changed_ids(self) -> NDArray[np.int64] | None:
        """Ids of the images that changed since the horizon; None if not known, or not few."""
        if self._horizon is None:
            return None
        found = self.connection.execute(SQL["changes"], self._given()).fetchall()
        if any(row[0] is None for row in found):
            return None
        ids = np.unique(np.array([i for row in found for i in row[0]], dtype=np.int64))
        return ids if len(ids) <= max(FEW, len(self) // FEW_SHARE) else None

    def _check_unchanged(self, row: Sequence[Any]) -> None:
        """Look at the first two columns of an answer: has anything changed, is the encoder there.

        Raises:
            _Changed: read what has changed, and search again.
            UnknownEncoder: the encoder was removed.
        """
        if not row[1]:
            raise UnknownEncoder(f"The encoder {self.encoder.name!r} has been removed.")
        if row[0]:
            raise _Changed

    def _use(self, found: ResidentCodes) -> None:
        # Both or neither: making the index may want more memory than there is.
        index = self._make_index(found.words, self.encoder.bits)
        self._codes, self._index = found, index

    def _given(self) -> dict[str, Any]:
        return {"encoder_id": self.encoder.id, "horizon": self._horizon}

    # One attempt

    def _packed(self, words: NDArray[np.int64]) -> flat.PackedWords:
        """Queries int64 [Q, 4], packed as the codes are.

        Raises:
            WrongWidth: they have more bits than the encoder's codes.
        """
        bits = self.encoder.bits
        if bits < codes.MAX_BITS and (words >> (bits // codes.WORDS)).any():
            raise WrongWidth(
                f"The query has more than the {bits} bits of encoder {self.encoder.name!r}."
            )
        return resident.pack(words, bits)

    def _nearest(
        self,
        packed: flat.PackedWords,
        keep: int | None,
        radius: int | None,
        labels: Sequence[str] | None,
        metadata: Mapping[str, Any] | None,
    ) -> Sequence[NDArray[np.int64]]:
        """The keys of the nearest codes that pass the filters."""
        rows = None if labels is None else self._codes.bearing(labels)
        if metadata is not None:
            given = self._given() | {"metadata": Jsonb(dict(metadata))}
            row = self.connection.execute(SQL["passing"], given, binary=True).fetchone()
            assert row is not None
            self._check_unchanged(row)
            having = self._codes.rows_of(resident.received(row[2]))
            rows = having if rows is None else np.intersect1d(rows, having, assume_unique=True)
        bits = self.encoder.bits
        within = bits if radius is None else min(radius, bits)
        return self._index.nearest(packed, keep, within, rows)

    def _distances_and_ids(
        self, keys: NDArray[np.int64]
    ) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        distances, rows = flat.unpack_keys(keys)
        return distances, self._codes.ids[rows]

    def _fetched(self, query: str, keys: NDArray[np.int64], **more: Any) -> list[tuple[Any, ...]]:
        """What the database says of the images of some keys, if they are still the nearest."""
        distances, ids = self._distances_and_ids(keys)
        given = self._given() | {"ids": ids.tolist(), "distances": distances.tolist()} | more
        rows = self.connection.execute(SQL[query], given).fetchall()
        self._check_unchanged(rows[0])
        # Without hits there is one row, which says that nothing has changed.
        return [row[2:] for row in rows if row[3] is not None]

    def _coarse(self, keys: NDArray[np.int64]) -> SearchResult:
        rows = self._fetched("hits", keys)
        if len(rows) < len(keys):
            # Another server answers than before, and is behind: a pooler may do that.
            self._horizon = None
            raise _Changed
        return self._result("coarse", tuple(Hit(*row) for row in rows))

    def _fine(
        self, query: Query, keys: NDArray[np.int64], k: int | None, most: int, metric: Metric
    ) -> SearchResult:
        assert query.feature is not None
        text = vector_text(query.feature)
        rows = self._fetched("fine", keys[:most], k=k, metric=metric, feature=text)
        result = self._result("fine", tuple(Hit(*row) for row in rows))
        pool_size = min(len(keys), most) if rows else 0
        return replace(result, pool_size=pool_size, tie_whole=not rows or len(keys) <= most)

    def _result(self, stage: Literal["coarse", "fine"], hits: tuple[Hit, ...]) -> SearchResult:
        return SearchResult(
            hits=hits,
            encoder=self.encoder.name,
            stage=stage,
            exact=True,
            guaranteed_radius=self.encoder.bits,
            milliseconds=0.0,
            plan="scan",
            shells=0,
            probes=0,
            candidates=len(self),
            source="memory",
        )


def _with_whole_tie(keys: NDArray[np.int64], number: int) -> NDArray[np.int64]:
    """The first so many keys, and those that tie with the last of them."""
    if len(keys) <= number:
        return keys
    beyond = ((int(keys[number - 1]) >> flat.ROW_BITS) + 1) << flat.ROW_BITS
    return keys[: np.searchsorted(keys, beyond)]


# The same words as in SQL.


def _checked_pool(pool: int, pool_max: int | None) -> tuple[int, int | None]:
    pool = arguments.whole("pool", pool)
    pool_max = arguments.whole("pool_max", pool_max)
    if pool < 1:
        raise UsageError(f"pool must be at least 1, not {pool}.")
    if pool_max is not None and pool_max < pool:
        raise UsageError(f"pool_max ({pool_max}) is smaller than pool ({pool}).")
    return pool, pool_max
