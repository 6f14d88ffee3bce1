"""What every demo does: store codes, encode queries, search, show the answers."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from retrieval_db import codes, photos
from retrieval_db.client import Database
from retrieval_db.encoders import Encoder
from retrieval_db.evaluation import metrics
from retrieval_db.photos import Labels
from retrieval_db.pipeline import IndexReport
from retrieval_db.presentation import Answer, write_page, write_sheet
from retrieval_db.search import Query, SearchResult

Say = Callable[[str], None]

K = 10
# After how many files a long step says how far it is.
EVERY = 1000


@dataclass(frozen=True)
class Quality:
    """Retrieval quality over the queries of a demo, ties in expectation.

    Attributes:
        mean_average_precision: over the whole ranking by Hamming distance.
        precision: precision@k of that ranking; k is 10, or 4 for the drawn pictures.
        precision_fine: precision@10 of the fine stage; None without one.
        baseline: mAP if images were ranked by the query's predicted label alone, or None.
    """

    mean_average_precision: float
    precision: float
    precision_fine: float | None = None
    baseline: float | None = None


@dataclass(frozen=True)
class DemoReport:
    """What a demo did, and how good the answers were.

    Attributes:
        encoder: name under which its codes are stored.
        stored: images in the database.
        answers: those on the sheet and the page.
        sheet, page: the files.
        queries: how many were searched for.
        quality: over these; None where it is not known what is relevant.
        seconds: wall time.
    """

    encoder: str
    stored: int
    answers: tuple[Answer, ...]
    sheet: Path
    page: Path
    queries: int
    quality: Quality | None = None
    seconds: float = 0.0


def store(
    database: Database,
    encoder: Encoder,
    folder: Path,
    *,
    say: Say,
    labels: Labels | None = None,
    total: int | None = None,
) -> IndexReport:
    """Store the codes of a folder under the demo's encoder.

    Codes of an earlier demo stay if they come from the very same encoder and folder, and go
    if not.
    """
    known = {stored.name: stored for stored in database.encoders()}
    old = known.get(encoder.name)
    root = folder.resolve()
    if old is not None and (old.fingerprint, old.root) != (encoder.fingerprint, str(root)):
        removed = database.remove_encoder(encoder.name)
        say(f"   The {removed:,} codes of an earlier demo are replaced.")
    report = database.index(
        folder,
        encoder=encoder,
        root=root,
        labels=labels,
        prune=True,
        progress=counting(say, total),
    )
    done = f"{report.encoded:,} images encoded and stored" if report.encoded else "nothing new"
    unchanged = f", {report.unchanged:,} were there already" if report.unchanged else ""
    say(f"   {done}{unchanged}; encoder {encoder.name}, {report.seconds:.1f} s")
    for name, reason in report.skipped[:K]:
        say(f"   skipped {name}: {reason}")
    if len(report.skipped) > K:
        say(f"   … and {len(report.skipped) - K:,} more files skipped")
    return report


def counting(say: Say, total: int | None) -> Callable[[int], None]:
    """A progress callback that says how far it is, now and then."""
    seen = 0

    def advance(files: int) -> None:
        nonlocal seen
        before, seen = seen, seen + files
        if seen // EVERY > before // EVERY and (total is None or total >= 2 * EVERY):
            say(f"   {seen:,} images" + ("" if total is None else f" of {total:,}"))

    return advance


def encode(encoder: Encoder, files: Sequence[Path]) -> tuple[list[Query], NDArray[np.float32]]:
    """Encode image files to search with.

    Returns:
        The queries, and the outputs that their codes come from, float32 [N, L].
    """
    batch: NDArray[Any] = np.stack(
        [encoder.prepare(photos.decode(photos.content(file), file)) for file in files]
    )
    features, outputs = encoder.encode(batch)
    words = codes.to_words(codes.binarize(outputs), encoder.bits).tolist()
    queries = [
        Query((w[0], w[1], w[2], w[3]), None if features is None else features[row])
        for row, w in enumerate(words)
    ]
    return queries, outputs


def ask(
    database: Database,
    encoder: Encoder,
    file: Path,
    query: Query,
    *,
    title: str,
    label: str | None = None,
) -> Answer:
    """Search the ten nearest of one query; in the fine stage where there is one."""
    result = database.search(query, encoder=encoder.name, k=K)
    root = database.encoder(encoder.name).root
    return Answer(
        query=title,
        file=file,
        words=query.words,
        result=result,
        root=root,
        label=label,
        feature=query.feature,
        options={"k": K},
    )


def rank(
    database: Database, encoder: Encoder, query: Query, label: str, k: int
) -> tuple[float, float]:
    """Rank the whole table by Hamming distance; relevant are the images of that label.

    Returns:
        The average precision, and precision@k.
    """
    ranking = database.search(
        query, encoder=encoder.name, k=None, radius=encoder.bits, stage="coarse"
    )
    distances = [hit.distance for hit in ranking.hits]
    relevant = [hit.label == label for hit in ranking.hits]
    average = metrics.average_precision(distances, relevant)
    return average, metrics.precision_at(distances, relevant, k)


def present(
    database: Database,
    answers: Sequence[Answer],
    stem: Path,
    *,
    title: str,
    introduction: str,
    facts: Sequence[tuple[str, str]],
    say: Say,
) -> tuple[Path, Path]:
    """Write the contact sheet and the page, print one answer, and what to type next.

    Args:
        stem: of the files' paths.

    Returns:
        The paths of the sheet and the page.
    """
    say("5. A contact sheet and a page of answers")
    sheet, page = stem.with_name(f"{stem.name}-sheet.png"), stem.with_name(f"{stem.name}.html")
    write_sheet(answers, sheet, title=title, hits=K)
    write_page(answers, page, title=title, introduction=introduction, facts=facts, hits=K)
    answer = answers[0]
    result = answer.result
    say("")
    say(f"Nearest to {answer.title}  ·  {answer.certificate}  ·  {result.milliseconds:.1f} ms")
    _table(result, say)
    say("")
    say(f"Contact sheet:  {short(sheet)}")
    say(f"Page:           {short(page)}")
    say("")
    say("Try next:")
    named = " --database URL" if database.target.source == "--database" else ""
    if answer.file is not None:
        file = shlex.quote(short(answer.file))
        say(f"   retrieval-db search {file} --encoder {result.encoder}{named}")
    say(f"   retrieval-db info{named}")
    say(f"   retrieval-db db shell{named}" if not named else "   psql URL")
    say(f"   {answer.sql}")
    return sheet, page


def _table(result: SearchResult, say: Say) -> None:
    fine = result.stage == "fine"
    wide = max((len(hit.label) + 2 for hit in result.hits if hit.label), default=0)
    label = f"{'label':<{max(wide, 7)}}" if wide else ""
    say(f"   rank  Hamming distance  {'feature distance  ' if fine else ''}{label}path")
    for hit in result.hits:
        far = "" if hit.feature_distance is None else f"{hit.feature_distance:>16.4f}  "
        label = f"{hit.label or '':<{max(wide, 7)}}" if wide else ""
        say(f"   {hit.rank:>4}  {hit.distance:>16}  {far}{label}{photos.printable(hit.path)}")


def short(path: Path) -> str:
    """A path as one would type it in the folder one is in."""
    here = Path.cwd()
    return photos.printable(path.relative_to(here) if path.is_relative_to(here) else path)
