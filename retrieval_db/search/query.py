"""What is looked for: a code, and the feature beside it; from a photo, a stored image, a text."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, SupportsIndex

import numpy as np
from numpy.typing import NDArray

from .. import arguments, codes, photos
from ..codes import Words
from ..database import Connection
from ..encoders import Encoder, StoredEncoder, decoder_of, takes_features
from ..errors import InvalidCode, UnknownImage, UsageError, WrongWidth
from ..sql import queries

SQL = queries("search")


@dataclass(frozen=True)
class Query:
    """What is looked for: a code, and for the fine stage a feature.

    Attributes:
        words: the four words of the code, signed or unsigned.
        feature: float32 [D], or None.
        encoder: the name of the one whose code it is; None where that is not known.

    Raises:
        InvalidCode: not four words of 64 bits.
    """

    words: Words
    feature: NDArray[np.float32] | None = None
    encoder: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", codes.signed_words(self.words))
        if self.feature is not None:
            object.__setattr__(self, "feature", np.asarray(self.feature, dtype=np.float32))


# What can be looked for: a query, a text (hex, bits, words), four words, or a packed code.
QueryLike = Query | str | tuple[int, int, int, int] | NDArray[np.uint8] | bytes


def as_query(query: QueryLike, bits: int) -> Query:
    """A query from any form of a code.

    Raises:
        InvalidCode, WrongWidth: it is not a code of `bits` bits, or they are several.
    """
    if isinstance(query, Query):
        return query
    packed = codes.as_packed(query, bits)
    if len(packed) != 1:
        raise InvalidCode(f"One code is looked for at a time, not {len(packed)}: `search_batch`.")
    return Query(codes.words_of(packed[0], bits))


def query_photo(path: Path | str, encoder: Encoder) -> Query:
    """Encode a photo to search with.

    Raises:
        ImageError: it is not a readable image.
    """
    path = Path(path)
    data = photos.content(path)
    decoder = decoder_of(encoder)
    image = None if decoder is None else decoder([data])[0]
    if image is None:
        image = encoder.prepare(photos.decode(data, path))
    features, outputs = encoder.encode(image[None])
    words = codes.words_of(codes.binarize(outputs)[0], encoder.bits)
    return Query(words, None if features is None else features[0], encoder.name)


def query_by_id(connection: Connection, image_id: SupportsIndex) -> Query:
    """The code and feature of a stored image.

    Raises:
        UnknownImage: there is no such image.
    """
    return _stored_query(connection, _row_of(connection, "image_by_id", image_id))


def path_of(connection: Connection, image_id: SupportsIndex) -> str:
    """The path of a stored image.

    Raises:
        UnknownImage: there is no such image.
    """
    return str(_row_of(connection, "path_of", image_id)[0])


def _row_of(connection: Connection, query: str, image_id: SupportsIndex) -> tuple[Any, ...]:
    wanted = arguments.whole("an id", image_id)
    row = connection.execute(SQL[query], [wanted]).fetchone()
    if row is None:
        raise UnknownImage(f"There is no image with the id {image_id}.")
    return row


def query_by_path(connection: Connection, encoder: StoredEncoder, path: str) -> Query:
    """The code and feature of a stored image.

    Raises:
        UnknownImage: there is no such image under this encoder.
    """
    row = None
    # A path that is not UTF-8 is stored nowhere.
    with suppress(UnicodeEncodeError):
        row = connection.execute(SQL["image_by_path"], [encoder.id, path]).fetchone()
    if row is None:
        raise UnknownImage(
            f"No image of the encoder {encoder.name!r} has the path {path!r}. Paths are stored "
            + (f"relative to {encoder.root}." if encoder.root else "absolute.")
        )
    return _stored_query(connection, row)


def _stored_query(connection: Connection, row: tuple[Any, ...]) -> Query:
    feature = None
    if takes_features(connection):
        found = connection.execute(SQL["feature_of"], [row[0]]).fetchone()
        feature = None if found is None else np.array(found[0], dtype=np.float32)
    return Query((row[2], row[3], row[4], row[5]), feature, encoder=row[1])


def vector_text(feature: NDArray[np.floating]) -> str:
    """A feature, [D], as pgvector reads it, rounded as a `halfvec` is.

    Five digits tell all half-floats apart; all those of a float32 take three times as long.

    Raises:
        UsageError: a number of it is none, or too large.
    """
    with np.errstate(over="ignore"):
        half = feature.astype(np.float16)
    if not np.isfinite(half).all():
        raise UsageError(
            "The query's feature contains NaN, infinity, or numbers too large for half precision "
            f"(beyond {np.finfo(np.float16).max:,.0f})."
        )
    values = half.tolist()
    return "[" + ",".join(["%.5g"] * len(values)) % tuple(values) + "]"


def checked_bounds(
    k: SupportsIndex | None, radius: SupportsIndex | None, stage: str
) -> tuple[int | None, int | None]:
    """`k` and `radius` as whole numbers, or what no search can do, in the words of SQL.

    Raises:
        UsageError: impossible values; or neither in the coarse stage (in the fine one the pool
            is bound enough).
    """
    k, radius = arguments.whole("k", k), arguments.whole("radius", radius)
    if k is None and radius is None and stage == "coarse":
        raise UsageError("Give k, a radius or both.")
    if (k is not None and k < 1) or (radius is not None and radius < 0):
        raise UsageError("k must be at least 1 and the radius at least 0.")
    return k, radius


def check_comparable(encoder: StoredEncoder, query: Query) -> None:
    """Refuse a query that cannot be compared with the encoder's codes and features.

    Raises:
        UsageError: it is of another encoder.
        WrongWidth: its feature has another dimension.
    """
    if query.encoder not in (None, encoder.name):
        raise UsageError(
            f"The query is a code of {query.encoder!r}, which says nothing about codes of "
            f"{encoder.name!r}: search with encoder {query.encoder!r}."
        )
    if query.feature is not None and encoder.feature_dim not in (None, len(query.feature)):
        raise WrongWidth(
            f"Features of {encoder.name!r} have {encoder.feature_dim} dimensions; "
            f"the query's has {len(query.feature)}."
        )
