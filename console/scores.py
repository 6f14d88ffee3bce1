"""Evaluations, printed."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retrieval_db.evaluation import Evaluation, Health, StageScore
from retrieval_db.presentation import write_pools, write_rankings

from .evaluating import Report, Scored
from .screen import note, print_json, print_table

RADIUS = 2


def report(found: Report, *, as_json: bool, plots: Path | None) -> None:
    """The table of an evaluation, and its figure."""
    if as_json:
        print_json(
            found.facts | {"title": found.title, "encoders": [_plain(one) for one in found.scored]}
        )
    else:
        print(found.title)
        print_table(*_table(found))
        for one in found.scored:
            _remarks(one.evaluation)
            if one.health is not None:
                _health(one.evaluation.name, one.health)
    if plots is not None:
        _wrote(write_rankings(found.evaluations, plots / "rankings", found.title))


def thresholds(found: Report, *, as_json: bool) -> None:
    """Precision, recall and F1 for each Hamming radius."""
    if as_json:
        print_json(
            [
                {"encoder": one.evaluation.name, **one.evaluation.as_dict()["radius"]}
                for one in found.scored
            ]
        )
        return
    print(found.title)
    for one in found.scored:
        curve = one.evaluation.radius
        assert curve is not None
        # A radius within which nothing more lies repeats the one before it.
        new = np.flatnonzero(np.diff(curve.retrieved, prepend=0) > 0)
        print(f"{one.evaluation.name}, {one.bits} bits, {one.evaluation.queries} queries")
        print_table(
            ("radius", "precision", "recall", "F1", "images", ""),
            [
                (
                    radius,
                    f"{curve.precision[radius]:.4f}",
                    f"{curve.recall[radius]:.4f}",
                    f"{curve.f1[radius]:.4f}",
                    f"{curve.retrieved[radius]:,.1f}",
                    "best" if radius == curve.best else "",
                )
                for radius in new.tolist()
            ],
        )
        _remarks(one.evaluation)


def healths(found: Mapping[str, Health], *, as_json: bool) -> None:
    """Whether the bits of encoders carry anything."""
    if as_json:
        print_json([{"encoder": name, **one.as_dict()} for name, one in found.items()])
        return
    for name, one in found.items():
        _health(name, one)


def stages(found: Mapping[str, Sequence[StageScore]], *, as_json: bool, plots: Path | None) -> None:
    """Coarse, fine and exhaustive search side by side, for each encoder."""
    if as_json:
        print_json(
            [
                {"encoder": encoder, "stages": [one.as_dict() for one in every]}
                for encoder, every in found.items()
            ]
        )
    for encoder, every in found.items():
        if not as_json:
            _stages(encoder, every)
        if plots is not None:
            # A name may hold what a file name may not.
            stem = "pools-" + re.sub(r"[^\w.-]", "_", encoder)
            _wrote(write_pools(every, plots / stem, f"From coarse to fine: {encoder}"))


def _stages(encoder: str, every: Sequence[StageScore]) -> None:
    print(f"{encoder}: recall is of the exhaustive search by feature, mAP by label")
    print_table(
        ("stage", "pool", "pool size", "recall@10", "recall@100", f"mAP@{every[0].k}", "ms"),
        [
            (
                one.stage,
                one.pool or "",
                ""
                if one.pool_size_median is None
                else f"{one.pool_size_median:.0f} (p95 {one.pool_size_p95:.0f})",
                f"{one.recall_at_10:.4f}",
                f"{one.recall_at_100:.4f}",
                f"{one.mean_average_precision:.4f}",
                f"{one.milliseconds_median:.1f} (p95 {one.milliseconds_p95:.1f})",
            )
            for one in every
        ],
    )


def _health(name: str, found: Health) -> None:
    share = found.largest_group / found.images
    print(f"{name}: {found.verdict}")
    for sentence in found.findings:
        print(f"  {sentence}")
    print(
        f"  {found.images:,} images, {found.distinct:,} distinct codes; the most frequent code "
        f"has {found.largest_group:,} of them ({share:.1%})"
    )
    print(
        f"  bits: mean {found.mean.min():.2f} to {found.mean.max():.2f}, entropy "
        f"{found.entropy.min():.2f} to {found.entropy.max():.2f} (mean {found.entropy.mean():.2f})"
    )
    print(
        f"  correlation of two bits: mean {found.mean_correlation:.2f}, strongest "
        f"{found.strongest_correlation:.2f}; all together vary like "
        f"{found.effective_bits:.1f} independent bits"
    )
    widths = sorted(set(found.chunks))
    chunks = f"{len(found.chunks)} chunks of {' or '.join(map(str, widths))} bits"
    print(f"  largest bucket: {found.largest_bucket:,} images ({chunks})")


def _plain(one: Scored) -> dict[str, Any]:
    return one.evaluation.as_dict() | {
        "bits": one.bits,
        "baselines": [baseline.as_dict() for baseline in one.baselines],
        "health": None if one.health is None else one.health.as_dict(),
    }


def _table(found: Report) -> tuple[list[str], list[list[object]]]:
    every = found.evaluations
    bits = {one.evaluation.name: one.bits for one in found.scored}
    k = max(one.k for one in every)
    maps = {"found": f"mAP@{k} (÷ found)", "relevant": f"mAP@{k} (÷ relevant)"}
    order = sorted(maps, key=lambda name: name != found.denominator)
    if all(one.k == one.database for one in every):
        # In the whole ranking every relevant image is found.
        maps, order = {"relevant": "mAP"}, ["relevant"]
    ranks = [rank for rank in (10, 100, 1000) if rank <= k]
    head = [
        "",
        "bits",
        "queries",
        *(maps[name] for name in order),
        *(f"P@{rank}" for rank in ranks),
    ]
    head += [f"P within {RADIUS}", "best radius"]
    rows: list[list[object]] = []
    for one in every:
        values = {
            "relevant": one.mean_average_precision,
            "found": one.mean_average_precision_found,
        }
        row: list[object] = [one.name, bits.get(one.name, ""), f"{one.queries:,}"]
        row += [f"{values[name]:.4f}" for name in order]
        row += [_number(one.precision_at.at(rank)) for rank in ranks]
        curve = one.radius
        row += (
            ["", ""]
            if curve is None
            else [
                f"{curve.precision[min(RADIUS, len(curve.precision) - 1)]:.4f}",
                f"{curve.best} (F1 {curve.f1[curve.best]:.4f})",
            ]
        )
        rows.append(row)
    return head, rows


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def _remarks(one: Evaluation) -> None:
    """What a reader of the numbers has to know."""
    if one.clipped is not None:
        note(f"{one.name}: k is {one.k}, since the database has no {one.clipped:,} images.")
    for reason, number in one.left_out.items():
        note(f"{one.name}: queries {reason}, left out: {number:,}")
    if one.without_relevant:
        note(
            f"{one.name}: queries without a relevant image, which score 0: {one.without_relevant:,}"
        )


def _wrote(files: Sequence[Path]) -> None:
    for file in files:
        note(f"Wrote {file}")
