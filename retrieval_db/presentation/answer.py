"""One query with its answer, and how it is put into words and SQL."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from psycopg import sql
from psycopg.types.json import Jsonb

from ..codes import Words
from ..photos import printable
from ..search import Hit, SearchResult, vector_text

# Arguments of a search that the coarse stage does not have.
FINE_OPTIONS = ("pool", "pool_max", "metric")


@dataclass(frozen=True)
class Answer:
    """A query and the images found for it.

    Attributes:
        query: the query's title, such as its file name.
        file: the query's image file, if it has one.
        words: the four words of the query's code.
        result: the hits, with their certificate.
        root: the folder that relative paths of hits start from, or None.
        label: the query's label, if known: hits are marked as of the same label or not.
        feature: the query's feature, float32 [D]; the fine stage's SQL needs it.
        options: the arguments of the search beside the query, named as in SQL, such as
            `{"k": 10, "labels": ["shoe"]}`; they appear in the SQL that is shown.
    """

    query: str
    file: Path | None
    words: Words
    result: SearchResult
    root: str | None
    label: str | None = None
    feature: NDArray[np.float32] | None = field(default=None, compare=False, repr=False)
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def title(self) -> str:
        """The query's title without anything that cannot be shown."""
        return visible(self.query)

    @property
    def certificate(self) -> str:
        """What is guaranteed, in words."""
        result = self.result
        radius = result.guaranteed_radius
        upto = f"complete up to distance {radius}" if radius >= 0 else "nothing was examined"
        if result.stage == "coarse":
            return "exact" if result.exact else upto
        pool = f"pool of {result.pool_size}"
        pool = f"exact {pool}" if result.exact else f"{pool}, {upto}"
        return pool if result.tie_whole else f"{pool}, last tie cut"

    @property
    def stage(self) -> str:
        """What the hits are ranked by, in words."""
        fine = self.result.stage == "fine"
        return "fine stage: by feature distance" if fine else "coarse stage: by Hamming distance"

    def path_of(self, hit: Hit) -> Path:
        """Where the image file of a hit should be."""
        return Path(self.root or "", hit.path)

    def agrees(self, hit: Hit) -> bool | None:
        """Whether the hit has the query's label; None if either has none."""
        if self.label is None or hit.label is None:
            return None
        return hit.label == self.label

    @property
    def sql(self) -> str:
        """The statement that gives the coarse stage's answer in psql."""
        options = {name: v for name, v in self.options.items() if name not in FINE_OPTIONS}
        return self._call("search_codes", [], options)

    @property
    def fine_sql(self) -> str | None:
        """The statement that gives the fine stage's answer; None if this is not one."""
        if self.result.stage == "coarse" or self.feature is None:
            return None
        return self._call("search_images", [f"'{vector_text(self.feature)}'"], self.options)

    def _call(self, function: str, more: list[str], options: Mapping[str, object]) -> str:
        arguments = [_literal(self.result.encoder), *map(_word, self.words), *more]
        named = {"k": 10, **options}
        arguments += [f"{name} => {_literal(value)}" for name, value in named.items()]
        return f"SELECT * FROM {function}({', '.join(arguments)});"


def visible(text: str) -> str:
    """A text that can be drawn and encoded: file names hold bytes, newlines and worse."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in printable(text))


def _word(word: int) -> str:
    # The least bigint without its sign is no bigint, so a plain literal would be numeric.
    return str(word) if word != -(1 << 63) else f"'{word}'"


def _literal(value: object) -> str:
    if isinstance(value, Mapping):
        value = Jsonb(dict(value))
    text = sql.Literal(value).as_string(None)
    # psycopg casts some literals and puts a space before others.
    return text.strip()
