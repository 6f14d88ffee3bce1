"""Evaluations of stored encoders over the rows of the live table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db import encoders
from retrieval_db.client import Database
from retrieval_db.encoders import StoredEncoder
from retrieval_db.errors import UsageError
from retrieval_db.evaluation import Evaluation, Health, QuerySet, StageScore, query_sets, stages
from retrieval_db.interchange import read_npz
from retrieval_db.photos import FOLDER, Sources, label_reader
from retrieval_db.pipeline import encode_all

from . import opening
from .screen import Say, progress_bar


@dataclass(frozen=True)
class Asking:
    """How the live table is asked.

    Attributes:
        queries: a folder of classes, an npz of codes, or a number of rows; see `query_set`.
        seed: of the rows that are drawn.
        weights, device: of the network that encodes a folder.
    """

    queries: str
    seed: int = 0
    weights: Path | None = None
    device: str = "auto"

    @property
    def title(self) -> str:
        """For people."""
        if self.queries.isdecimal():
            return f"up to {int(self.queries):,} of its rows (seed {self.seed})"
        return self.queries


@dataclass(frozen=True)
class Scored:
    """What is known of one encoder after an evaluation.

    Attributes:
        evaluation: of its codes.
        bits: L.
        baselines: of the same queries and database without these codes.
        health: of the database's codes, where it was asked for.
    """

    evaluation: Evaluation
    bits: int
    baselines: tuple[Evaluation, ...] = ()
    health: Health | None = None


@dataclass(frozen=True)
class Report:
    """An evaluation of several encoders.

    Attributes:
        title: what was searched, and with which queries.
        scored: the encoders, in the order they were named.
        denominator: the mAP that the protocol means.
        facts: of the data and the protocol, for JSON.
    """

    title: str
    scored: tuple[Scored, ...]
    denominator: str = "relevant"
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def evaluations(self) -> list[Evaluation]:
        """All of them, each baseline once."""
        found = {one.evaluation.name: one.evaluation for one in self.scored}
        for one in self.scored:
            found |= {baseline.name: baseline for baseline in one.baselines}
        return list(found.values())


def over_table(
    db: Database,
    stored: Sequence[StoredEncoder],
    asking: Asking,
    *,
    k: int | None,
    look: bool,
    say: Say,
) -> Report:
    """Evaluate stored encoders over the rows of the live table."""
    scored = []
    for encoder in stored:
        asked = query_set(db, encoder, asking, say=say)
        with progress_bar(f"Ranking with {encoder.name}", len(asked)) as advance:
            score = db.evaluate(asked, encoder=encoder.name, k=k, progress=advance)
        scored.append(
            Scored(
                score,
                encoder.bits,
                health=db.health(encoder.name) if look else None,
            )
        )
    return Report(
        f"The live table ({db.target}), queries: {asking.title}",
        tuple(scored),
        facts={"database": str(db.target), "queries": asking.queries, "seed": asking.seed},
    )


def compared(
    db: Database,
    stored: StoredEncoder,
    asking: Asking,
    pools: Sequence[int],
    *,
    k: int | None,
    say: Say,
) -> list[StageScore]:
    """Coarse, fine and exhaustive search of a stored encoder; see `stages.compare`."""
    asked = query_set(db, stored, asking, say=say)
    with progress_bar(f"Searching {stored.name}", len(asked)) as advance:
        return stages.compare(db.connection, stored, asked, k=k, pools=pools, progress=advance)


def query_set(
    db: Database,
    stored: StoredEncoder,
    asking: Asking,
    *,
    say: Say,
) -> QuerySet:
    """The queries that `--queries` means: a folder of classes, an npz, or so many rows.

    Images that the encoder was trained on are left out.

    Raises:
        UsageError: none of these, or nothing is left.
    """
    queries = asking.queries
    if queries.isdecimal() and int(queries) < 1:
        raise UsageError("--queries draws at least 1 row.")
    if queries.isdecimal():
        asked = query_sets.drawn(db.connection, stored, int(queries), seed=asking.seed)
    elif Path(queries).is_dir():
        encoder = opening.from_database(db, stored, asking.weights, asking.device)
        images = Sources([Path(queries)])
        with progress_bar("Encoding the queries", images.count()) as advance:
            items, report = encode_all(
                images, encoder, labels=label_reader(FOLDER), progress=advance
            )
        for path, reason in report.skipped:
            say(f"Skipped {path}: {reason}")
        asked = QuerySet.of(items)
    elif Path(queries).is_file():
        items = read_npz(Path(queries))
        stored.check_same(items.bits, items.fingerprint)
        asked = QuerySet.of(items)
    else:
        raise UsageError(
            f"--queries is a folder with one folder of photos for each label, an npz of codes, "
            f"or a number of rows; there is no {queries!r}."
        )
    return asked.unseen(training_of(encoders.artifact(db.connection, stored)))


def training_of(artifact: bytes | None) -> NDArray[np.uint8] | None:
    """The hashes of the images an encoder was trained on, from its artifact."""
    if artifact is None:
        return None
    from retrieval_db.encoder import checkpoint

    return checkpoint.training_sha256(checkpoint.unpack(artifact)[2])
