"""The pickle of the MySQL era: a dict or list of codes, each four integers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Any

from ..errors import FormatError, UsageError
from . import pickle_machine
from .codeset import CodeSet
from .files import named, stream
from .paths import Paths, described
from .sources import FileSource, pack_words


class PickleSource(FileSource):
    """A pickled dict of number → four words, or path → four words, or a list of four words.

    The path of a code is looked up by its number in the file that `settings.paths` names;
    without one, the number itself is the path.
    """

    kind = "pickle"

    def batches(self, size: int) -> Iterator[CodeSet]:
        """The codes in the file's order, `size` at a time.

        Raises:
            FormatError: something else than codes, or than plain integers; see `pickle_machine`.
            WrongWidth: a word has more than L/4 bits.
            UsageError: paths are given, but the file has its own.
        """
        self.remarks = []
        paths = self.given_paths()
        keys: list[Any] = []
        values: list[Any] = []
        done = 0
        for some_keys, some_values in pickle_machine.entries(lambda: stream(self.path)):
            keys += some_keys
            values += some_values
            while len(values) >= size:
                yield self._batch(keys[:size], values[:size], paths, done)
                done += size
                del keys[:size], values[:size]
        if values or not done:
            yield self._batch(keys, values, paths, done)
        if paths is not None and (unused := paths.unused()):
            self.remarks.append(f"{unused} paths of {paths.path} belong to no code.")

    def _batch(
        self, keys: Sequence[Any], values: Sequence[Any], paths: Paths | None, first: int
    ) -> CodeSet:
        with named(self.path):
            self._check(keys, values)
            flat = list(chain.from_iterable(values))
            packed = pack_words(flat, self.settings.bits, first)
        names = list(map(str if paths is None else paths.of, keys))
        return CodeSet(packed, self.settings.length, names)

    def _check(self, keys: Sequence[Any], values: Sequence[Any]) -> None:
        """See that the entries are codes; quickly where they all are."""
        kinds = set(map(type, keys))
        if kinds > {str} or kinds - {str, int}:
            raise FormatError("Its keys are neither numbers nor paths.")
        if kinds == {str} and self.settings.paths is not None:
            raise UsageError(f"{self.path} has paths of its own; leave --paths out.")
        if (
            set(map(type, values)) <= {tuple, list}
            and set(map(len, values)) <= {4}
            and set(map(type, chain.from_iterable(values))) <= {int}
        ):
            return
        for key, value in zip(keys, values, strict=True):
            if not (
                isinstance(value, (tuple, list))
                and len(value) == 4
                and all(isinstance(word, int) for word in value)
            ):
                raise FormatError(
                    f"Entry {key} is {described(value)}, not a code of four integers."
                )
