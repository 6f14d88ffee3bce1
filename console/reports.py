"""What a command did or found, printed."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from retrieval_db.database import Connection, Target
from retrieval_db.encoders import StoredEncoder
from retrieval_db.indexing import IndexReport
from retrieval_db.info import Info
from retrieval_db.layouts import TuneReport
from retrieval_db.loading import LoadReport
from retrieval_db.server import ServerStatus

from .screen import note, note_all, print_json, print_table, size


def index_report(report: IndexReport, *, as_json: bool, prune: bool) -> None:
    """Say what an index run did."""
    if as_json:
        print_json(dataclasses.asdict(report))
        return
    rate = report.encoded / report.seconds if report.seconds else 0.0
    print(
        f"{report.encoder}: {report.found} image files, {report.inserted} new, "
        f"{report.updated} changed, {report.unchanged} unchanged, {len(report.skipped)} skipped"
        + (f", {report.relabelled} relabelled" if report.relabelled else "")
        + f" in {report.seconds:.1f} s ({rate:.0f} images/s)"
    )
    if report.moved_from is not None:
        note(f"The photos have been moved: the root was {report.moved_from}.")
    skipped(report.skipped)
    if report.gone:
        done = f"{report.pruned} rows deleted" if prune else "--prune deletes their rows"
        note(f"{len(report.gone)} files are gone ({done}):")
        note_all(report.gone)


def skipped(files: Sequence[tuple[str, str]]) -> None:
    """List the files that could not be read."""
    if files:
        note(f"{len(files)} files skipped:")
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


def info(found: Info, *, as_json: bool) -> None:
    """Show a database."""
    if as_json:
        print_json(dataclasses.asdict(found))
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
        print_json([dataclasses.asdict(one) | {"images": count} for one, count in stored])
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
