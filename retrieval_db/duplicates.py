"""Near-duplicates: all pairs of images within a Hamming radius, and the groups they form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
from numpy.typing import NDArray

from . import arguments
from .database import Connection, in_transaction, translated
from .encoders import StoredEncoder
from .errors import UsageError
from .sql import queries

SQL = queries("duplicates")

# Radii at which copies are found and unrelated pictures rarely are, by kind of code and bits.
DEFAULT_RADII = {("phash", 64): 6, ("phash", 256): 24, ("pdq", 256): 31}

# Longer lists are refused: nobody reads them, and equal codes make them explode.
MAX_PAIRS = 1_000_000
MAX_CODE_PAIRS = 10_000_000

# The last bigint: no id is after it.
LAST_ID = 2**63 - 1

Since = datetime | int | None


@dataclass(frozen=True)
class Pair:
    """Two images whose codes are near.

    Attributes:
        image_id_1, image_id_2: their keys in `images`; the first is the smaller.
        path_1, path_2: as stored.
        distance: Hamming distance, in bits.
    """

    image_id_1: int
    image_id_2: int
    path_1: str
    path_2: str
    distance: int


@dataclass(frozen=True)
class Member:
    """An image of a group: its key in `images`, its path as stored, its label or None."""

    image_id: int
    path: str
    label: str | None


@dataclass(frozen=True)
class Group:
    """Images that are linked by pairs within the radius: a connected component.

    Attributes:
        images: by id. Two of them can be farther apart than the radius, with others between.
        codes: how many distinct codes they have.
        distance: the largest distance of the pairs that link them, in bits.
    """

    images: tuple[Member, ...]
    codes: int
    distance: int


def default_radius(encoder: StoredEncoder) -> int:
    """The radius at which this encoder's codes find copies.

    Raises:
        UsageError: only perceptual hashes have one: where learned codes mean a copy depends on
            what they were trained for.
    """
    name = encoder.name.lower()
    for (kind, bits), radius in DEFAULT_RADII.items():
        if encoder.bits == bits and (encoder.config.get("kind") == kind or name.startswith(kind)):
            return radius
    raise UsageError(
        f"Give a radius (--radius): the encoder {encoder.name!r} has no default. "
        f"A twentieth of its {encoder.bits} bits ({encoder.bits // 20}) is a start."
    )


def pairs(
    connection: Connection,
    encoder: StoredEncoder,
    radius: int | None = None,
    *,
    since: Since = None,
    max_pairs: int = MAX_PAIRS,
) -> list[Pair]:
    """All pairs of images whose codes differ in at most `radius` bits; exact, each pair once.

    Args:
        connection: to a migrated database.
        encoder: whose codes are compared.
        radius: in bits; None for the default of perceptual hashes.
        since: only pairs with an image added since: at that time or later (a datetime with its
            zone; by `images.created_at`, the begin of the transaction that added it), or
            after the image of that id.
        max_pairs: a longer list is an error.

    Returns:
        Nearest first, then by ids.

    Raises:
        TooManyPairs: there are more than `max_pairs`.
        UsageError: no radius, a negative one, or a time without its zone.
    """
    parameters = _parameters(encoder, radius, since, max_pairs)
    with translated(connection):
        return [Pair(*row) for row in connection.execute(SQL["pairs"], parameters)]


def groups(
    connection: Connection,
    encoder: StoredEncoder,
    radius: int | None = None,
    *,
    since: Since = None,
    max_pairs: int = MAX_CODE_PAIRS,
) -> list[Group]:
    """Groups of near-duplicates: the connected components of all pairs.

    Equal codes are compared once, so thousands of equal images are no burden.

    Args:
        connection, encoder, radius: as for `pairs`.
        since: only links with an image added since, as for `pairs`: the groups are the new
            images with what is near to them.
        max_pairs: more pairs of distinct codes are an error.

    Returns:
        Largest first, then by the smallest id.

    Raises:
        TooManyPairs, UsageError: as for `pairs`.
    """
    parameters = _parameters(encoder, radius, since, max_pairs)
    with translated(connection), _one_snapshot(connection):
        near = _columns(connection, "code_pairs", parameters)
        copies = _columns(connection, "copies", parameters)
        # A code counts if one of its images is new, or if it is near to such a one.
        met = np.union1d(copies[copies[:, 2] == 1, 1], near[:, :2])
        copies = copies[np.isin(copies[:, 1], met)]
        copies[:, 2] = 0
        edges = np.concatenate([near, copies])
        if not len(edges):
            return []
        ids = np.unique(edges[:, :2])
        members = _members(connection, ids.tolist())
    return _components(ids, edges, copies[:, 0], members)


def as_groups(connection: Connection, found: Sequence[Pair]) -> list[Group]:
    """Each pair as a group of two, with their labels.

    Images that have been deleted meanwhile have none.
    """
    ids = {image for pair in found for image in (pair.image_id_1, pair.image_id_2)}
    with translated(connection):
        members = _members(connection, list(ids))

    def member(image: int, path: str) -> Member:
        return members.get(image, Member(image, path, None))

    return [
        Group(
            (member(pair.image_id_1, pair.path_1), member(pair.image_id_2, pair.path_2)),
            codes=2 if pair.distance else 1,
            distance=pair.distance,
        )
        for pair in found
    ]


def _members(connection: Connection, ids: list[int]) -> dict[int, Member]:
    rows = connection.execute(SQL["members"], [ids])
    return {row[0]: Member(*row) for row in rows}


def _components(
    ids: NDArray[np.int64],
    edges: NDArray[np.int64],
    copies: NDArray[np.int64],
    members: dict[int, Member],
) -> list[Group]:
    """Connected components of a graph.

    Args:
        ids: [N], sorted: the nodes.
        edges: [E, 3]: two ids and their distance.
        copies: ids whose code another one's has.
        members: by id.
    """
    # Late: only this needs SciPy, which takes longer to import than all the rest.
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.searchsorted(ids, edges[:, :2])
    ones = np.ones(len(edges), dtype=np.int8)
    graph = coo_array((ones, (ends[:, 0], ends[:, 1])), shape=(len(ids), len(ids)))
    count, component = connected_components(graph, directed=False)
    farthest = np.zeros(count, dtype=np.int64)
    np.maximum.at(farthest, component[ends[:, 0]], edges[:, 2])
    size = np.bincount(component, minlength=count)
    codes = size - np.bincount(component[np.searchsorted(ids, copies)], minlength=count)
    parts = np.split(ids[np.argsort(component, kind="stable")], np.cumsum(size)[:-1])
    found = [
        Group(
            tuple(members[image] for image in part.tolist()),
            int(codes[number]),
            int(farthest[number]),
        )
        for number, part in enumerate(parts)
    ]
    return sorted(found, key=lambda group: (-len(group.images), group.images[0].image_id))


def _parameters(
    encoder: StoredEncoder, radius: int | None, since: Since, max_pairs: int
) -> dict[str, Any]:
    time = after = None
    if isinstance(since, datetime):
        time = since
        if time.tzinfo is None:
            raise UsageError("A time needs its zone: 2025-01-31T12:00:00+00:00.")
    else:
        after = arguments.whole("since, an id or a time,", since)
    within = default_radius(encoder) if radius is None else arguments.whole("radius", radius)
    return {
        "encoder": encoder.name,
        # Beyond all bits nothing changes.
        "radius": max(-1, min(within, encoder.bits)),
        "since": time,
        "since_id": None if after is None else max(-LAST_ID, min(after, LAST_ID)),
        "max_pairs": min(arguments.whole("max_pairs", max_pairs), LAST_ID),
    }


def _columns(connection: Connection, query: str, parameters: dict[str, Any]) -> NDArray[np.int64]:
    """The rows of three numbers that a query gives, int64 [N, 3]."""
    parts = [np.empty((0, 3), dtype=np.int64)]
    cursor = connection.execute(SQL[query], parameters)
    while rows := cursor.fetchmany(100_000):
        parts.append(np.array(rows, dtype=np.int64))
    return np.concatenate(parts)


@contextmanager
def _one_snapshot(connection: Connection) -> Iterator[None]:
    """Several statements see the same rows, unless the caller has a transaction already."""
    idle = not in_transaction(connection)
    with connection.transaction():
        if idle:
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield
