"""What a command did or found, printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from retrieval_db.codes import to_hex
from retrieval_db.database import Connection, Target
from retrieval_db.encoders import StoredEncoder
from retrieval_db.exporting import ExportReport
from retrieval_db.info import Info
from retrieval_db.layouts import TuneReport
from retrieval_db.loading import LoadReport, Survey
from retrieval_db.pipeline import IndexReport, Profile
from retrieval_db.server import ServerStatus

from .screen import note, note_all, print_json, print_table, size


def index_report(report: IndexReport, *, as_json: bool, prune: bool) -> None:
    """Say what an index run did."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rate = report.encoded / report.seconds if report.seconds else 0.0
    print(
        f"{report.encoder}: {counted(report.found, 'image file')}, {report.inserted} new, "
        f"{report.updated} changed, {report.unchanged} unchanged, {len(report.skipped)} skipped"
        + (f", {report.repeated} named again" if report.repeated else "")
        + (f", {report.relabelled} with another label or metadata" if report.relabelled else "")
        + f" in {report.seconds:.1f} s ({rate:.0f} images/s)"
    )
    if report.moved_from is not None:
        note(f"The photos have been moved: the root was {report.moved_from}.")
    skipped(report.skipped)
    if report.gone:
        done = f"{counted(report.pruned, 'row')} deleted" if prune else "--prune deletes their rows"
        one = len(report.gone) == 1
        done = done if prune or not one else "--prune deletes its row"
        note(f"{counted(len(report.gone), 'file')} {'is' if one else 'are'} gone ({done}):")
        note_all(report.gone)


def profile(found: Profile) -> None:
    """Show how busy each stage was, and which one the others waited for."""
    print_table(
        ("stage", "workers", "images", "busy s", "images/s alone", "share"),
        [
            (
                stage.name,
                stage.workers,
                f"{stage.images:,}",
                f"{stage.seconds:.2f}",
                "–" if stage.rate is None else f"{stage.rate:,.0f}",
                f"{found.share(stage):.0%}",
            )
            for stage in found.stages
        ],
    )
    if (slowest := found.bottleneck) is not None:
        print(f"The bottleneck is: {slowest.name}.")


def counted(number: int, what: str) -> str:
    """So many files: `1 file`, `2,000 files`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def skipped(files: Sequence[tuple[str, str]]) -> None:
    """List the files that could not be read."""
    if files:
        note(f"{counted(len(files), 'file')} skipped:")
        note_all([f"{path}: {reason}" for path, reason in files])


def load_report(report: LoadReport, *, as_json: bool) -> None:
    """Say what a load did."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print(
        f"{report.encoder}: {report.inserted} new, {report.updated} updated "
        f"in {report.seconds:.1f} s"
    )
    if report.repeated:
        have = "row has" if report.repeated == 1 else "rows have"
        note(f"{report.repeated} {have} a path that comes again: its last code counts.")


def survey(file: Path, kind: str, found: Survey, *, encoder: str | None, as_json: bool) -> None:
    """Say what a load would load."""
    name = encoder or found.head.encoder
    first = [
        (
            path,
            found.first.labels[row] if found.first.labels else None,
            to_hex(code, found.head.bits),
        )
        for row, (path, code) in enumerate(zip(found.first.paths, found.first.codes, strict=True))
    ]
    counts = {
        name: getattr(found, name) for name in ("rows", "labels", "hashes", "metadata", "features")
    }
    if as_json:
        print_json(
            {"file": str(file), "format": kind, "encoder": name, "bits": found.head.bits}
            | counts
            | {"first": [dict(zip(("path", "label", "code"), row, strict=True)) for row in first]}
            | {"remarks": found.remarks}
        )
        return
    print(
        f"{file}: {kind}, {found.rows} codes of {found.head.bits} bits; {found.labels} labels, "
        f"{found.hashes} content hashes, {found.metadata} metadata, {found.features} features"
    )
    print_table(("path", "label", "code"), [(row[0], row[1] or "", row[2]) for row in first])
    for remark in found.remarks:
        note(remark)
    note(f"Encoder: {name}" if name else "The file names no encoder: give --encoder NAME.")
    note("Nothing was loaded (--dry-run).")


def export_report(report: ExportReport, *, as_json: bool) -> None:
    """Say what an export wrote."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    print(
        f"{report.path}: {report.rows} codes of {report.encoder}, {report.format}, "
        f"in {report.seconds:.1f} s"
    )
    if report.exact is False:
        note("A search was not exact: there may be nearer images than these.")


def info(found: Info, *, as_json: bool) -> None:
    """Show a database."""
    if as_json:
        print_json(dataclasses.asdict(found) | {"encoders": _counted(found.encoders)})
        return
    print(f"Database    {found.target}, schema {found.schema}")
    print(f"PostgreSQL  {found.postgresql}, pgvector {found.pgvector or 'not installed'}")
    print(f"Revisions   core {found.revisions.core}, fine stage {found.revisions.features or '–'}")
    encoders(found.encoders, as_json=False)
    print_table(
        ("relation", "kind", "size"),
        [
            (
                relation.name + ("" if relation.valid else " (invalid)"),
                "index" if relation.is_index else "table with its indexes",
                size(relation.bytes),
            )
            for relation in found.relations
        ],
    )


def tuned(report: TuneReport) -> None:
    """Say which layout an encoder has now."""
    widths = ", ".join(map(str, report.layout.widths))
    print(f"{report.encoder}: chunks of {widths} bits, built in {report.seconds:.1f} s")


def statements(lines: Sequence[str]) -> None:
    """Print SQL for psql."""
    for line in lines:
        print(f"{line.strip()};")


def encoders(stored: Sequence[tuple[StoredEncoder, int]], *, as_json: bool) -> None:
    """List encoders with their numbers of images."""
    if as_json:
        print_json(_counted(stored))
        return
    print_table(
        ("encoder", "bits", "feature", "images", "fingerprint", "root"),
        [
            (
                one.name,
                one.bits,
                one.feature_dim or "–",
                count,
                one.fingerprint[:12],
                one.root or "",
            )
            for one, count in stored
        ],
    )


def _counted(stored: Sequence[tuple[StoredEncoder, int]]) -> list[dict[str, Any]]:
    """Encoders with their numbers of images, as plain values."""
    return [dataclasses.asdict(one) | {"images": count} for one, count in stored]


def encoder(stored: StoredEncoder) -> None:
    """Show one encoder, as JSON."""
    print_json(dataclasses.asdict(stored))


def server_status(status: ServerStatus, *, as_json: bool) -> None:
    """Show the embedded server."""
    if as_json:
        print_json(dataclasses.asdict(status))
        return
    state = f"running (pid {status.pid})" if status.running else "stopped"
    print(f"Embedded PostgreSQL {status.version}: {state}")
    print(f"Data  {status.data_dir}, {size(status.size)}")
    print(f"Log   {status.log}")


def external_status(target: Target, connection: Connection, *, as_json: bool) -> None:
    """Show an external server."""
    row = connection.execute("SELECT current_setting('server_version')").fetchone()
    version = "" if row is None else str(row[0])
    if as_json:
        print_json({"running": True, "target": str(target), "version": version})
        return
    print(f"PostgreSQL {version}: running")
    print(f"Database  {target}")
