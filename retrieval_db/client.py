"""The library in one object: `connect()` gives a `Database` to load, index and search."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, SupportsIndex, get_args

import numpy as np
from numpy.typing import NDArray

from . import (
    arguments,
    duplicates,
    encoders,
    evaluation,
    exporting,
    layouts,
    legacy,
    loading,
    migration,
    search,
)
from .database import (
    Connection,
    Target,
    create_database_engine,
    open_connection,
    resolve,
    translated,
)
from .duplicates import Group, Pair, Since
from .encoders import Encoder, StoredEncoder
from .errors import UsageError
from .evaluation import Evaluation, Health, QuerySet, health, query_sets
from .exporting import ExportReport, Restriction
from .info import Info, describe
from .interchange import CodeSet, Source, open_source
from .layouts import TuneReport
from .loading import LoadReport, Survey
from .photos import Item, Labels, Shard, Sources, label_reader
from .pipeline import IndexReport, encoding, indexing
from .search import (
    BatchResult,
    MemorySource,
    Metric,
    Query,
    QueryLike,
    SearchResult,
    SearchSource,
    Stage,
    as_query,
    flat,
)

if TYPE_CHECKING:
    from sqlalchemy import Engine


def connect(
    url: str | None = None, *, report: Callable[[str], None] = lambda message: None
) -> Database:
    """Connect to a database of images.

    Args:
        url: libpq or SQLAlchemy form. Without it RETRIEVAL_DB_URL and DATABASE_URL are looked
            at, then the embedded server, which starts and migrates itself.
        report: told what takes time.

    Raises:
        ConnectionFailed: no server there, or it refused us.
        NotMigrated, SchemaTooNew: run `retrieval-db migrate`, or upgrade this program.
        ServerError: the embedded server does not start.
    """
    target = resolve(url, report=report)
    connection = open_connection(target.url)
    try:
        with translated(connection):
            if target.embedded and not migration.revisions(connection).current:
                migration.upgrade(target.url)
            migration.require_current(connection)
    except BaseException:
        connection.close()
        raise
    return Database(target, connection)


class Database(AbstractContextManager["Database"]):
    """A migrated database. Use it in a `with` statement, in one thread at a time."""

    def __init__(self, target: Target, connection: Connection) -> None:
        self.target = target
        self.connection = connection
        self._memory: dict[int, MemorySource] = {}

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the embedded server goes on running."""
        self.connection.close()
        if "engine" in self.__dict__:
            self.engine.dispose()

    @cached_property
    def engine(self) -> Engine:
        """A SQLAlchemy engine on the same database, for the models of `retrieval_db.schema`."""
        return create_database_engine(self.target.url)

    def info(self) -> Info:
        """Where the database is, its versions, encoders, counts, sizes and indexes."""
        return describe(self.connection, self.target)

    def encoders(self) -> list[StoredEncoder]:
        """The stored encoders, by name."""
        with translated(self.connection):
            return encoders.stored_encoders(self.connection)

    def encoder(self, name: str | None = None) -> StoredEncoder:
        """The encoder of that name, or the only one.

        Raises:
            UnknownEncoder: there is none of that name, none at all, or a choice.
        """
        with translated(self.connection):
            if name is None:
                return encoders.only(self.connection)
            return encoders.find(self.connection, name)

    def add_encoder(self, encoder: Encoder, *, root: Path | None = None) -> StoredEncoder:
        """Store an encoder, with the folder that its images' paths are relative to.

        Raises:
            EncoderConflict: another encoder of this name is stored.
            UsageError: the name of `root` is not UTF-8.
        """
        with translated(self.connection):
            return encoders.register(
                self.connection,
                encoder.name,
                encoder.bits,
                fingerprint=encoder.fingerprint,
                feature_dim=encoder.feature_dim,
                config=encoder.config,
                artifact=encoder.artifact,
                root=None if root is None else encoding.stored_root(root),
            )

    def remove_encoder(self, name: str) -> int:
        """Delete an encoder, the codes of all its images and its bucket indexes.

        Returns:
            How many images went with it.
        """
        stored = self.encoder(name)
        with translated(self.connection):
            removed = encoders.remove(self.connection, name)
            layouts.drop_leftovers(self.connection)
        self._memory.pop(stored.id, None)
        return removed

    def tune(
        self,
        encoder: str | None = None,
        *,
        widths: Sequence[int] | None = None,
        covering: bool | None = None,
        report: Callable[[str], None] = lambda statement: None,
    ) -> TuneReport:
        """Give an encoder bucket indexes that fit its rows; see `layouts.tune`."""
        return layouts.tune(
            self.connection, self.encoder(encoder), widths, covering=covering, report=report
        )

    def load(
        self,
        items: CodeSet | Source | Path | str,
        *,
        encoder: str | None = None,
        features: bool = True,
        surveyed: Survey | None = None,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> LoadReport:
        """Bulk-load codes from memory or from a file of any known format; see `loading.load`."""
        if isinstance(items, Path | str):
            items = open_source(Path(items))
        return loading.load(
            self.connection,
            items,
            encoder=encoder,
            features=features,
            surveyed=surveyed,
            progress=progress,
        )

    def export(
        self,
        path: Path | str,
        *,
        encoder: str | None = None,
        format: str | None = None,
        only: Restriction | None = None,
        features: bool = True,
        progress: Callable[[int], None] = lambda rows: None,
    ) -> ExportReport:
        """Write an encoder's codes to an npz, Parquet or CSV file; see `exporting.export`."""
        return exporting.export(
            self.connection,
            self.encoder(encoder),
            Path(path),
            format=format,
            only=only,
            features=features,
            progress=progress,
        )

    def create_legacy_view(
        self, encoder: str | None = None, *, name: str = legacy.VIEW, schema: str | None = None
    ) -> StoredEncoder:
        """Show an encoder's images in the columns of the MySQL era; see `legacy.create_view`."""
        stored = self.encoder(encoder)
        legacy.create_view(self.connection, stored, name=name, schema=schema)
        return stored

    def drop_legacy_view(self, *, name: str = legacy.VIEW, schema: str | None = None) -> None:
        """Drop that view; see `legacy.drop_view`."""
        legacy.drop_view(self.connection, name=name, schema=schema)

    def index(
        self,
        *sources: Path | str | Sources,
        encoder: Encoder,
        root: Path | None = None,
        labels: Labels | str | None = None,
        prune: bool = False,
        features: bool | None = None,
        shard: Shard | None = None,
        workers: int | None = None,
        processes: bool | None = None,
        progress: Callable[[int], None] = lambda files: None,
    ) -> IndexReport:
        """Store the codes of images; see `indexing.index`.

        Args:
            sources: folders, image files, tar shards, `-` for a list on standard input; or
                one `Sources`, which may have other lists.
            encoder: fitted; it is stored with the codes, so that others can search by photo.
            root: folder that paths are stored relative to; absolute paths without it. If the
                photos were moved, with it, the folder where it is now.
            labels: says the label of a file; or `folder`, or a CSV of path,label.
            features: store features; by default where pgvector is there.
            shard: take only this part of the images.
            workers: that read and decode; as many as there are processors.
            processes: whether they are processes, not threads; by default on four processors
                or more.

        Raises:
            UsageError: the encoder is a name, or there are no workers.
        """
        if isinstance(encoder, str):
            raise UsageError(
                f"Images are indexed with an encoder, not its name: create({encoder!r}) of "
                "retrieval_db.encoder makes one."
            )
        workers = arguments.whole("workers", workers)
        if workers is not None and workers < 1:
            raise UsageError(f"At least one worker reads images, not {workers}.")
        if isinstance(labels, str):
            labels = label_reader(labels)
        images = Sources.of(*sources)
        images.check()
        stored = self.add_encoder(encoder, root=root)
        before = stored.root
        if root is not None:
            place = encoding.stored_root(root)
            with translated(self.connection):
                stored = encoders.rooted(self.connection, stored, place, moved=True)
        if features is None:
            features = encoders.takes_features(self.connection)
        report = indexing.index(
            self.connection,
            encoder,
            stored,
            images,
            folders=images.folders(),
            labels=labels,
            shard=shard,
            prune=prune,
            features=features,
            workers=workers,
            processes=processes,
            progress=progress,
        )
        report.moved_from = before if before != stored.root else None
        return report

    def files(self, encoder: StoredEncoder) -> list[Item]:
        """The image files of an encoder, wherever they are, with their labels and metadata."""
        return indexing.stored_files(self.connection, encoder)

    def search(
        self,
        query: QueryLike,
        *,
        encoder: str | None = None,
        k: int | None = 10,
        radius: int | None = None,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        stage: Stage = "auto",
        pool: int = 200,
        pool_max: int | None = None,
        metric: Metric = "cosine",
        max_candidates: int | None = None,
        max_ms: float | None = None,
        source: SearchSource = "database",
    ) -> SearchResult:
        """Find the images nearest to a code; see `search.search`.

        Args:
            query: hex digits, a bit string, four words, a packed code uint8 [ceil(L/8)], or
                what `query_by_id`, `query_by_path` and `query_photo` return.
            encoder: whose codes; the only one by default.
            source: `memory` gives the same answer from codes that it reads once and then keeps
                in this object, see `memory_source`. It knows no budget.
        """
        arguments.one_of("source", source, get_args(SearchSource))
        if source == "memory":
            _refuse_budget(max_candidates, max_ms)
            held = self.memory_source(encoder)
            return held.search(
                as_query(query, held.encoder.bits),
                k=k,
                radius=radius,
                labels=labels,
                metadata=metadata,
                stage=stage,
                pool=pool,
                pool_max=pool_max,
                metric=metric,
            )
        stored = self.encoder(encoder)
        return search.search(
            self.connection,
            stored,
            as_query(query, stored.bits),
            k=k,
            radius=radius,
            labels=labels,
            metadata=metadata,
            stage=stage,
            pool=pool,
            pool_max=pool_max,
            metric=metric,
            max_candidates=max_candidates,
            max_ms=max_ms,
        )

    def search_batch(
        self,
        packed: NDArray[np.uint8],
        *,
        features: NDArray[np.floating] | None = None,
        encoder: str | None = None,
        k: int | None = 10,
        radius: int | None = None,
        labels: Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        pool: int = 200,
        pool_max: int | None = None,
        metric: Metric = "cosine",
        max_candidates: int | None = None,
        source: SearchSource = "database",
    ) -> BatchResult:
        """Find the images nearest to each of many codes; see `search.search_batch`.

        Args:
            source: `memory` as in `search`.
        """
        arguments.one_of("source", source, get_args(SearchSource))
        if source == "memory":
            _refuse_budget(max_candidates, None)
            if features is not None:
                raise UsageError(
                    "Many queries go through the fine stage in the database only: leave the "
                    "features out, or search with source 'database'."
                )
            return self.memory_source(encoder).search_batch(
                packed, k=k, radius=radius, labels=labels, metadata=metadata
            )
        return search.search_batch(
            self.connection,
            self.encoder(encoder),
            packed,
            features=features,
            k=k,
            radius=radius,
            labels=labels,
            metadata=metadata,
            pool=pool,
            pool_max=pool_max,
            metric=metric,
            max_candidates=max_candidates,
        )

    def memory_source(
        self, encoder: str | None = None, *, index: flat.Factory | None = None
    ) -> MemorySource:
        """The codes of an encoder in memory, kept as long as this object; see `MemorySource`.

        Args:
            encoder: whose codes; the only one by default.
            index: what searches them; another one than before takes its place.
        """
        stored = self.encoder(encoder)
        held = self._memory.get(stored.id)
        if held is None or index is not None:
            held = self._memory[stored.id] = MemorySource(self.connection, stored, index=index)
        held.encoder = stored
        return held

    def near_duplicates(
        self,
        *,
        encoder: str | None = None,
        radius: int | None = None,
        since: Since = None,
        max_pairs: int = duplicates.MAX_PAIRS,
    ) -> list[Pair]:
        """All pairs of images within `radius` bits of each other; see `duplicates.pairs`.

        Args:
            encoder: whose codes; the only one by default.
            radius: None for the default of perceptual hashes.
            since: only pairs with an image added since that time, or after that id.
        """
        stored = self.encoder(encoder)
        return duplicates.pairs(self.connection, stored, radius, since=since, max_pairs=max_pairs)

    def duplicate_groups(
        self,
        *,
        encoder: str | None = None,
        radius: int | None = None,
        since: Since = None,
        max_pairs: int = duplicates.MAX_CODE_PAIRS,
    ) -> list[Group]:
        """Near-duplicates as groups, largest first; see `duplicates.groups`."""
        stored = self.encoder(encoder)
        return duplicates.groups(self.connection, stored, radius, since=since, max_pairs=max_pairs)

    def evaluate(
        self,
        queries: QuerySet | CodeSet | int = 1000,
        *,
        encoder: str | None = None,
        k: int | None = 1000,
        seed: int = 0,
        progress: Callable[[int], None] = lambda queries: None,
    ) -> Evaluation:
        """Score the ranking that labelled queries get; see `evaluation.Evaluation`.

        Args:
            queries: codes with labels, or how many labelled rows to draw with the seed.
            encoder: whose codes; the only one by default.
            k: of mAP@k; None for the whole ranking.

        Raises:
            UsageError: no query, or no image, has a label.
            EncoderConflict, WrongWidth: the codes were made by another encoder.
        """
        stored = self.encoder(encoder)
        if isinstance(queries, CodeSet):
            stored.check_same(queries.bits, queries.fingerprint)
            queries = QuerySet.of(queries)
        elif not isinstance(queries, QuerySet):
            count = arguments.whole("the number of queries", queries)
            queries = query_sets.drawn(self.connection, stored, count, seed=seed)
        ranking = query_sets.table_ties(self.connection, stored, queries, progress=progress)
        found = evaluation.evaluate(stored.name, ranking, k=k)
        found.left_out.update(queries.left_out)
        return found

    def health(self, encoder: str | None = None) -> Health:
        """Whether the bits of an encoder carry anything; see `health.Health`."""
        return health.of_table(self.connection, self.encoder(encoder))

    def query_by_id(self, image_id: SupportsIndex) -> Query:
        """The code and feature of a stored image, by its id."""
        with translated(self.connection):
            return search.query_by_id(self.connection, image_id)

    def query_by_path(self, path: str, *, encoder: str | None = None) -> Query:
        """The code and feature of a stored image, by its path."""
        with translated(self.connection):
            return search.query_by_path(self.connection, self.encoder(encoder), path)


def _refuse_budget(max_candidates: int | None, max_ms: float | None) -> None:
    if max_candidates is not None or max_ms is not None:
        raise UsageError(
            "A budget (max_candidates, max_ms) is of the database's searches: in memory every "
            "code is compared. Leave it out, or search with source 'database'."
        )
