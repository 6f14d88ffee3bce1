"""What a user would pick instead: the same questions put to each, one query at a time.

A peer answers `search(code, k)` and `within(code, radius)` with (id, distance) rows, nearest first.
Peers on the server are asked over a warm connection; FAISS and DuckDB run in this process, on one
thread, and need no way between processes.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import faiss
import numpy as np
import psutil
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb
from psycopg.types.numeric import Int8

from benchmarks.timing import processor_milliseconds
from retrieval_db import codes
from retrieval_db.database import Connection, open_connection

Packed = NDArray[np.uint8]
Found = list[tuple[int, int]]


@dataclass(frozen=True)
class Code:
    """A query in the forms that peers take, made before any clock runs.

    Attributes:
        packed: uint8 [L/8].
        words: the four words of `images`; always bigint, or psycopg would choose a type for each by
            its size, and prepare a statement for every combination.
        text: bits as text, for pgvector.
    """

    packed: Packed
    words: tuple[Int8, ...]
    text: str

    @classmethod
    def all(cls, packed: Packed, bits: int) -> list[Code]:
        """The rows of packed codes uint8 [N, ceil(L/8)]."""
        return [
            cls(row, tuple(map(Int8, words)), "".join(map(str, np.unpackbits(row)[:bits])))
            for row, words in zip(packed, codes.to_words(packed, bits).tolist(), strict=True)
        ]


@dataclass(frozen=True)
class Question:
    """What is asked of every query: `k` nearest, or all within `radius`; one of them is None."""

    k: int | None = None
    radius: int | None = None

    def __str__(self) -> str:
        return f"k={self.k}" if self.k is not None else f"radius {self.radius}"


class Peer(ABC):
    """A way to search."""

    name: str
    built: Mapping[str, Any] = {}
    """Seconds and bytes of its build, where it has one."""

    @abstractmethod
    def search(self, code: Code, k: int) -> Found:
        """The k nearest codes."""

    @abstractmethod
    def within(self, code: Code, radius: int) -> Found:
        """All codes within a Hamming distance."""

    def ask(self, code: Code, question: Question) -> Found:
        """The answer to either kind of question."""
        if question.k is not None:
            return self.search(code, question.k)
        assert question.radius is not None
        return self.within(code, question.radius)

    def clock(self) -> float:
        """Milliseconds of processor time that have gone into its work so far."""
        return time.process_time() * 1000


class ServerPeer(Peer):
    """One that PostgreSQL answers for."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.backend = connection.info.backend_pid

    def clock(self) -> float:
        """Of the server's backend; not of its parallel workers."""
        return processor_milliseconds(self.backend)


def warm_connection(url: str, *, parallel: bool = False) -> Connection:
    """A connection that uses one core, or the parallel workers that the server allows."""
    connection = open_connection(url)
    if not parallel:
        connection.execute("SET max_parallel_workers_per_gather = 0")
    return connection


class Ours(ServerPeer):
    """`search_codes`."""

    name = "retrieval-db"
    statement = (
        "SELECT image_id, distance, path, label FROM search_codes("
        "%s, %s, %s, %s, %s, k => %s, radius => %s, labels => %s, metadata => %s) ORDER BY rank"
    )

    def __init__(
        self,
        connection: Connection,
        encoder: str,
        *,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(connection)
        self.encoder = encoder
        self.filters = [
            None if labels is None else list(labels),
            None if metadata is None else Jsonb(dict(metadata)),
        ]

    def search(self, code: Code, k: int) -> Found:
        return self._rows(code, k, None)

    def within(self, code: Code, radius: int) -> Found:
        return self._rows(code, None, radius)

    def _rows(self, code: Code, k: int | None, radius: int | None) -> Found:
        given = [self.encoder, *code.words, k, radius, *self.filters]
        rows = self.connection.execute(self.statement, given).fetchall()
        return [row[:2] for row in rows]


class Scan(ServerPeer):
    """The best plain statement: the inlined function, ordered and limited, then path and label.

    Everything but the query's words is literal, so that the planner sees it and chooses what to
    read: the table, a bucket index, the index on labels. psycopg prepares what it sends often.
    """

    def __init__(
        self,
        connection: Connection,
        encoder_id: int,
        *,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        name: str = "scan",
    ) -> None:
        super().__init__(connection)
        self.name = name
        self.conditions = [sql.SQL("encoder_id = {}").format(encoder_id)]
        if labels is not None:
            self.conditions.append(sql.SQL("label = ANY ({})").format(list(labels)))
        if metadata is not None:
            self.conditions.append(sql.SQL("metadata @> {}").format(Jsonb(dict(metadata))))
        self._statements: dict[tuple[int | None, int | None], bytes] = {}

    def search(self, code: Code, k: int) -> Found:
        return self._rows(code, k, None)

    def within(self, code: Code, radius: int) -> Found:
        return self._rows(code, None, radius)

    def statement(self, k: int | None, radius: int | None) -> bytes:
        """The SQL of a question, with the words q1 to q4 as parameters."""
        if (k, radius) not in self._statements:
            distance = sql.SQL(
                "hamming_distance(code_1, code_2, code_3, code_4, %(q1)s, %(q2)s, %(q3)s, %(q4)s)"
            )
            conditions = list(self.conditions)
            if radius is not None:
                conditions.append(sql.SQL("{} <= {}").format(distance, radius))
            limit = sql.SQL("ALL") if k is None else sql.Literal(k)
            text = sql.SQL(
                "SELECT id, distance, path, label FROM ("
                "SELECT id, {} AS distance FROM images WHERE {} ORDER BY distance, id LIMIT {}"
                ") AS best JOIN images USING (id) ORDER BY distance, id"
            ).format(distance, sql.SQL(" AND ").join(conditions), limit)
            self._statements[k, radius] = text.as_bytes(self.connection)
        return self._statements[k, radius]

    def _rows(self, code: Code, k: int | None, radius: int | None) -> Found:
        words = {f"q{number}": word for number, word in enumerate(code.words, start=1)}
        rows = self.connection.execute(self.statement(k, radius), words).fetchall()
        return [row[:2] for row in rows]


class Pgvector(ServerPeer):
    """pgvector's `<~>` over a table of (id, code bit(L)): one after the other, or through HNSW.

    Args:
        connection: of its own, for it is given settings.
        table: as `benchmarks.building` makes it; ids are row numbers from 1.
        ef: `hnsw.ef_search`; None reads the table.
    """

    def __init__(self, connection: Connection, table: str, bits: int, ef: int | None = None):
        super().__init__(connection)
        self.ef = ef
        self.name = "pgvector sequential" if ef is None else f"pgvector HNSW, ef {ef}"
        off = "enable_indexscan" if ef is None else "enable_seqscan"
        connection.execute(sql.SQL("SET {} = off").format(sql.Identifier(off)))
        if ef is not None:
            connection.execute(sql.SQL("SET hnsw.ef_search = {}").format(ef))
        distance = sql.SQL("code <~> %(code)s::bit({})").format(bits)
        self._nearest, self._near = (
            sql.SQL("SELECT id, {} AS distance FROM {} {} ORDER BY distance LIMIT %(most)s")
            .format(distance, sql.Identifier(table), condition)
            .as_bytes(connection)
            for condition in (sql.SQL(""), sql.SQL("WHERE {} <= %(radius)s").format(distance))
        )

    def search(self, code: Code, k: int) -> Found:
        return self._rows(self._nearest, {"code": code.text, "most": k})

    def within(self, code: Code, radius: int) -> Found:
        # The index gives no more than ef rows, whatever the limit.
        return self._rows(self._near, {"code": code.text, "most": self.ef, "radius": radius})

    def _rows(self, statement: bytes, given: dict[str, Any]) -> Found:
        rows = self.connection.execute(statement, given).fetchall()
        return [(key, int(distance)) for key, distance in rows]


class FaissFlat(Peer):
    """FAISS IndexBinaryFlat: all codes compared, in process; ids are row numbers from 0."""

    name = "FAISS IndexBinaryFlat"

    def __init__(self, packed: Packed) -> None:
        faiss.omp_set_num_threads(1)
        started = time.perf_counter()
        self.index: Any = faiss.IndexBinaryFlat(packed.shape[1] * 8)
        self.index.add(packed)
        self.built = {"seconds": round(time.perf_counter() - started, 2), "bytes": packed.nbytes}

    def search(self, code: Code, k: int) -> Found:
        distances, ids = self.index.search(code.packed[None], min(k, self.index.ntotal))
        pairs = zip(ids[0].tolist(), distances[0].tolist(), strict=True)
        # A hash that met fewer than k codes fills up with -1.
        return [pair for pair in pairs if pair[0] >= 0]

    def within(self, code: Code, radius: int) -> Found:
        # FAISS excludes the radius itself.
        _, distances, ids = self.index.range_search(code.packed[None], radius + 1)
        pairs = zip(ids.tolist(), distances.astype(int).tolist(), strict=True)
        return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


class FaissMultiHash(FaissFlat):
    """FAISS IndexBinaryMultiHash: chunks of about log₂(rows) − 3 bits, up to `nflip` flips.

    It searches once, with one setting: what is farther is missed.
    """

    def __init__(self, index: Any, nflip: int, built: Mapping[str, Any]) -> None:
        self.index = index
        self.nflip = nflip
        self.name = f"FAISS IndexBinaryMultiHash, nflip {nflip}"
        self.built = built

    @classmethod
    def build(cls, packed: Packed, flips: Sequence[int]) -> list[FaissMultiHash]:
        """One index, and a peer for each setting."""
        faiss.omp_set_num_threads(1)
        bits = packed.shape[1] * 8
        width = max(8, round(np.log2(len(packed))) - 3)
        process = psutil.Process()
        before, started = process.memory_info().rss, time.perf_counter()
        index = faiss.IndexBinaryMultiHash(bits, bits // width, width)
        index.add(packed)
        built = {
            "seconds": round(time.perf_counter() - started, 2),
            "bytes": process.memory_info().rss - before,
            "hashes": bits // width,
            "bits_a_hash": width,
        }
        return [cls(index, nflip, built) for nflip in flips]

    def search(self, code: Code, k: int) -> Found:
        self.index.nflip = self.nflip
        return super().search(code, k)

    def within(self, code: Code, radius: int) -> Found:
        self.index.nflip = self.nflip
        return super().within(code, radius)


class DuckDb(Peer):
    """DuckDB in memory on one thread: `bit_count(xor(…))` over words of 64 bits."""

    name = "DuckDB"

    def __init__(self, packed: Packed) -> None:
        self.database = duckdb.connect(":memory:", config={"threads": 1})
        words = self._words(packed)
        columns = {f"word_{n}": np.ascontiguousarray(word) for n, word in enumerate(words.T)}
        codes_of_images = {"id": np.arange(len(packed)), **columns}
        self.database.register("codes_of_images", codes_of_images)
        started = time.perf_counter()
        self.database.execute("CREATE TABLE codes AS SELECT * FROM codes_of_images")
        self.built = {"seconds": round(time.perf_counter() - started, 2)}
        self.database.unregister("codes_of_images")
        # Two counts of 64 bits do not fit into the one byte that bit_count returns.
        self._distance = " + ".join(
            f"bit_count(xor({column}, ?::UBIGINT))::INTEGER" for column in columns
        )

    def search(self, code: Code, k: int) -> Found:
        return self._rows(f"ORDER BY distance, id LIMIT {k:d}", code)

    def within(self, code: Code, radius: int) -> Found:
        return self._rows(f"WHERE distance <= {radius:d} ORDER BY distance, id", code)

    def _rows(self, end: str, code: Code) -> Found:
        given = [int(word) for word in self._words(code.packed[None])[0]]
        found = self.database.execute(
            f"SELECT * FROM (SELECT id, {self._distance} AS distance FROM codes) {end}", given
        )
        return [(int(key), int(distance)) for key, distance in found.fetchall()]

    @staticmethod
    def _words(packed: Packed) -> NDArray[np.uint64]:
        return np.ascontiguousarray(packed).view(">u8").astype(np.uint64)


def recall(found: Found, true: Found, question: Question) -> float:
    """Share of the true answer that was found; a row as near as the k-th true one counts.

    Args:
        true: the whole answer, nearest first.
    """
    if not true:
        return 1.0
    reach = true[-1][1] if question.k is not None else question.radius or 0
    return min(1.0, sum(distance <= reach for _, distance in found) / len(true))
