"""Evaluations on a data set, in memory: encoders, and the baselines to see them beside."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, cast

import numpy as np
from numpy.typing import NDArray

from retrieval_db import codes, evaluation
from retrieval_db.client import connect
from retrieval_db.encoders import Encoder
from retrieval_db.errors import (
    EncoderError,
    ImageError,
    NotEnoughImages,
    UnknownEncoder,
    UsageError,
)
from retrieval_db.evaluation import Evaluation, Ties, health, query_sets, ties

from . import choosing, opening
from .evaluating import Report, Scored, training_of
from .screen import Say, progress_bar
from .settings import Settings, is_file

if TYPE_CHECKING:
    from retrieval_db.encoder.datasets import Dataset, Split
    from retrieval_db.encoder.network import NetworkEncoder
    from retrieval_db.encoder.outputs import Responses

BASELINE = "itq"
LISTED = 5  # classes that a message names


def candidates(name: str, settings: Settings, database: str | None, *, say: Say) -> list[Encoder]:
    """The encoders that a name means: those of a file, a method's, which is fitted later, or a
    stored one. Where it is both, it is the stored one if the user named a database.

    Raises:
        UsageError, UnknownEncoder: it is none of these.
    """
    weights, device = settings.network.weights, settings.device
    if is_file(name):
        return opening.all_from_file(name, weights=weights, device=device)
    method = _method(name, settings)
    if method is None or choosing.names_database(database):
        with connect(database, report=say) as db:
            try:
                return [opening.from_database(db, db.encoder(name), weights, device)]
            except UnknownEncoder:
                if method is None:
                    raise
    return [opening.unfitted(method)]


def _method(name: str, settings: Settings) -> Settings | None:
    """The settings of a method or of a ready-made encoder; None if the name is of neither."""
    from retrieval_db.encoder.hashing.methods import parse_spec
    from retrieval_db.encoder.names import SHIPPED

    try:
        # The options of networks are for those among the encoders that take one.
        if name in SHIPPED or parse_spec(name)[0].name == "phash":
            settings = Settings(device=settings.device)
    except UsageError:
        return None
    return replace(settings, spec=name)


@dataclass
class Trial:
    """Encoders on one data set under one protocol. What needs fitting is fitted on its
    training images.

    Attributes:
        data, split: the images and their roles.
        seed: that the split was drawn with.
        k: of mAP@k; None for the whole ranking.
        baselines: whether cosine and ITQ of the same features are shown, too.
        look: whether the codes' health is looked at.
        say: told what the user should know.
    """

    data: Dataset
    split: Split
    seed: int
    k: int | None
    baselines: bool
    look: bool
    say: Say
    _seen: dict[Hashable, Responses] = field(default_factory=dict)
    _cosines: dict[Hashable, Evaluation] = field(default_factory=dict)
    _own: set[Hashable] = field(default_factory=set)
    _unfitted: set[Hashable] = field(default_factory=set)

    def run(self, encoders: Sequence[Encoder]) -> Report:
        """Evaluate encoders.

        Raises:
            UsageError: an encoder was trained on every query, or on classes that the protocol
                hides.
            NotEnoughImages: too few training images to fit one.
        """
        from retrieval_db.encoder.outputs import network_key

        split = self.split
        for encoder in encoders:
            self._check_hidden(encoder)
        # What is evaluated itself is no baseline of the others.
        self._own |= {
            (network_key(one), one.bits)
            for one in encoders
            if getattr(one, "method", None) == BASELINE
        }
        # Encoders of one network share what it made: the training images, too, if one needs them.
        self._unfitted |= {network_key(one) for one in encoders if not getattr(one, "fitted", True)}
        return Report(
            f"{self.data.name}, protocol {split.protocol}: {split.note}",
            tuple(self._scored(encoder) for encoder in encoders),
            split.denominator,
            {
                "data": self.data.name,
                "protocol": split.protocol,
                "note": split.note,
                "train": len(split.train),
                "database": len(split.database),
                "queries": len(split.query),
                "denominator": split.denominator,
            },
        )

    def _check_hidden(self, encoder: Encoder) -> None:
        """Refuse an encoder that has learnt what the protocol says nobody has seen.

        Raises:
            UsageError: it was trained on images or on classes that are hidden.
        """
        if self.split.protocol != "unseen":
            return
        trained = self._trained_classes(encoder) & set(self._hidden)
        if trained:
            shown = [name for name in self._hidden if name in trained]
            names = ", ".join(shown[:LISTED]) + (", …" if len(shown) > LISTED else "")
            raise UsageError(
                f"{encoder.name} was trained on {names}, which protocol unseen hides with --seed "
                f"{self.seed}: give the --seed of its training, or train it with --protocol unseen."
            )

    def _trained_classes(self, encoder: Encoder) -> set[str]:
        """The hidden classes of which it knows images; and those that it names.

        A class whose name is a number is another one in each list.
        """
        head = getattr(encoder, "head", None)
        named = {name for name in getattr(head, "classes", ()) if not name.isdecimal()}
        training = training_of(encoder.artifact)
        if training is None:
            return named
        contents = self._hidden_contents
        known = query_sets.trained_on(list(contents), training)
        if not known.any():
            return named
        # A photo that a class which is trained has, too, gives no hidden one away.
        alike = {sha256 for _, sha256 in self._contents(self.split.train)}
        found = (
            name
            for (sha256, name), was in zip(contents.items(), known.tolist(), strict=True)
            if was and sha256 not in alike
        )
        return named | set(found)

    @cached_property
    def _hidden(self) -> tuple[str, ...]:
        """The classes that are searched and asked for, but not trained."""
        labels, split = self.data.labels, self.split
        asked = np.setdiff1d(labels[split.database], labels[split.train])
        return tuple(self.data.classes[number] for number in asked.tolist())

    @cached_property
    def _hidden_contents(self) -> dict[bytes, str]:
        """The SHA-256 of each image of the hidden classes, and its class."""
        if not self._hidden:
            return {}
        rows = np.concatenate([self.split.database, self.split.query])
        return {sha256: self.data.label_name(row) for row, sha256 in self._contents(rows)}

    def _contents(self, rows: NDArray[np.int64]) -> Iterator[tuple[int, bytes]]:
        """The SHA-256 of those of these images that can be read; none is decoded."""
        for row in rows.tolist():
            with contextlib.suppress(ImageError):
                yield row, self.data.images.read(row).sha256

    def _scored(self, candidate: Encoder) -> Scored:
        encoder, shown = self._shown(candidate)
        query = shown.places(self.split.query)
        asked = _Asked(
            _untrained(encoder, shown, query),
            shown.places(self.split.database),
            self.data.labels[shown.rows],
            shown.sha256,
        )
        outputs = _outputs(encoder, shown.values)
        packed = codes.binarize(outputs)
        with progress_bar(f"Ranking with {encoder.name}", len(asked.query)) as advance:
            ranking = asked.ranking(packed, encoder.bits, progress=advance)
        score = evaluation.evaluate(encoder.name, ranking, k=self.k)
        for reason, number in (
            ("that cannot be read", len(self.split.query) - len(query)),
            ("the encoder was trained on", len(query) - len(asked.query)),
        ):
            if number:
                score.left_out[reason] = number
        return Scored(
            score,
            encoder.bits,
            tuple(self._beside(encoder, shown, asked, outputs)),
            health.of_codes(packed[asked.database], encoder.bits) if self.look else None,
        )

    def _shown(self, candidate: Encoder) -> tuple[Encoder, Responses]:
        """The encoder, fitted, and what it made of every image of the split."""
        from retrieval_db.encoder.outputs import network_key, respond

        key = network_key(candidate)
        network = cast("NetworkEncoder", candidate) if hasattr(candidate, "backbone") else None
        if key not in self._seen:
            roles = [self.split.database, self.split.query]
            if network is not None and (self.baselines or key in self._unfitted):
                roles.append(self.split.train)
            rows = np.unique(np.concatenate(roles))
            with progress_bar(f"Encoding {self.data.name}", len(rows)) as advance:
                self._seen[key] = respond(candidate, self.data.images, rows, progress=advance)
            for reason in self._seen[key].skipped:
                self.say(f"Skipped {reason}")
        if network is not None and not network.fitted:
            return network.fit(self._training_features(self._seen[key]), fallback=False), (
                self._seen[key]
            )
        return candidate, self._seen[key]

    def _training_features(self, shown: Responses) -> NDArray[np.float32]:
        return shown.values[shown.places(self.split.train)]

    def _beside(
        self,
        encoder: Encoder,
        shown: Responses,
        asked: _Asked,
        outputs: NDArray[np.float32],
    ) -> Iterator[Evaluation]:
        """The baselines of an encoder."""
        if not hasattr(encoder, "backbone"):
            return
        from retrieval_db.encoder.outputs import network_key

        network = cast("NetworkEncoder", encoder)
        # No classifier names a class that it has never seen.
        if self.split.protocol != "unseen":
            yield from self._predicted(network, shown, outputs, asked)
        if self.baselines:
            key = (network_key(encoder), asked.query.tobytes())
            if key not in self._cosines:
                self._cosines[key] = self._cosine(network, shown, asked)
            yield self._cosines[key]
            if (network_key(encoder), encoder.bits) not in self._own:
                yield from self._itq(network, shown, asked)

    def _predicted(
        self,
        encoder: NetworkEncoder,
        shown: Responses,
        outputs: NDArray[np.float32],
        asked: _Asked,
    ) -> Iterator[Evaluation]:
        """The database ranked by the query's predicted label, where one can be predicted: from
        the code's outputs, or by the softmax on the same features."""
        try:
            names = encoder.predict(outputs[asked.query])
        except EncoderError:
            try:
                names = encoder.classify(shown.values[asked.query])
            except EncoderError:
                return
        number = {name: index for index, name in enumerate(self.data.classes)}
        predicted = np.array([number.get(name, -1) for name in names])
        ranking = evaluation.by_prediction(
            predicted, asked.query_labels, asked.database_labels, left_out=asked.left_out
        )
        name = f"{encoder.name}: predicted label"
        yield evaluation.evaluate(name, ranking, k=self.k, hamming=False)

    def _cosine(self, encoder: NetworkEncoder, shown: Responses, asked: _Asked) -> Evaluation:
        with progress_bar("Ranking by cosine", len(asked.query)) as advance:
            ranking = evaluation.by_cosine(
                shown.values[asked.query],
                shown.values[asked.database],
                asked.query_labels,
                asked.database_labels,
                left_out=asked.left_out,
                progress=advance,
            )
            name = f"cosine of {_features_of(encoder)} features"
            return evaluation.evaluate(name, ranking, k=self.k, hamming=False)

    def _itq(
        self, encoder: NetworkEncoder, shown: Responses, asked: _Asked
    ) -> Iterator[Evaluation]:
        """ITQ of as many bits, fitted on the training images' features."""
        from retrieval_db.encoder.hashing.methods import METHODS

        fit = METHODS[BASELINE].fit
        assert fit is not None
        try:
            head = fit(self._training_features(shown), encoder.bits, encoder.seed)
        except (NotEnoughImages, UsageError) as error:
            self.say(f"No {BASELINE}{encoder.bits} beside {encoder.name}: {error}")
            return
        packed = codes.binarize(head(shown.values))
        ranking = asked.ranking(packed, encoder.bits)
        name = f"{BASELINE}{encoder.bits} of {_features_of(encoder)} features"
        yield evaluation.evaluate(name, ranking, k=self.k)


@dataclass(frozen=True)
class _Asked:
    """Which of the images that an encoder was shown are queries, and which the database.

    Attributes:
        query, database: places among these images.
        labels, sha256: of all of them.
    """

    query: NDArray[np.int64]
    database: NDArray[np.int64]
    labels: NDArray[np.int64]
    sha256: Sequence[bytes]

    @property
    def query_labels(self) -> NDArray[np.int64]:
        return self.labels[self.query]

    @property
    def database_labels(self) -> NDArray[np.int64]:
        return self.labels[self.database]

    @cached_property
    def left_out(self) -> list[NDArray[np.int64]]:
        """For each query the rows of the database of its content, as over the live table."""
        alike: dict[bytes, list[int]] = {}
        for row, place in enumerate(self.database.tolist()):
            alike.setdefault(self.sha256[place], []).append(row)
        own = (alike.get(self.sha256[place], []) for place in self.query.tolist())
        return [np.array(rows, dtype=np.int64) for rows in own]

    def ranking(
        self,
        packed: NDArray[np.uint8],
        bits: int,
        *,
        progress: Callable[[int], None] = lambda queries: None,
    ) -> Ties:
        """The database as the codes of all of them rank it."""
        return ties.by_label(
            packed[self.query],
            packed[self.database],
            bits,
            self.query_labels,
            self.database_labels,
            left_out=self.left_out,
            progress=progress,
        )


def _outputs(encoder: Encoder, values: NDArray[np.float32]) -> NDArray[np.float32]:
    if not hasattr(encoder, "backbone"):
        return values
    return cast("NetworkEncoder", encoder).outputs(values)


def _untrained(encoder: Encoder, shown: Responses, query: NDArray[np.int64]) -> NDArray[np.int64]:
    """The queries that the encoder was not trained on."""
    training = training_of(encoder.artifact)
    known = query_sets.trained_on([shown.sha256[row] for row in query.tolist()], training)
    if known.all():
        raise UsageError(f"{encoder.name}: {query_sets.ALL_TRAINED}")
    return query[~known]


def _features_of(encoder: NetworkEncoder) -> str:
    """Whose features: of a published network, or of one that was trained with the encoder."""
    return encoder.backbone.name if encoder.backbone.sha256 else encoder.name
