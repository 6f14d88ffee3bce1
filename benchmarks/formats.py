"""Loading a million codes from each format, as a ratio to npz, and the memory that it takes.

    python -m benchmarks.formats [--database URL] [--rows N] [--seed N] [--repeat N] [--files DIR]
    python -m benchmarks.formats --files DIR --add    # one more round, beside those of the result
    python -m benchmarks.formats --page               # the result's table into docs/formats.md

Uniform 128-bit codes with paths as those of SUN397. Each load is a process of its own, so that the
peak of its memory (`ru_maxrss`) is its own, too; so is a process that imports the same and loads
nothing. The formats take turns; an encoder of its own is made for each load and removed after it.
Then all of it is exported to each format.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from benchmarks import study
from benchmarks.pages import replaced, rewrite
from retrieval_db import CodeSet, codes, connect
from retrieval_db.exporting import WRITERS
from retrieval_db.interchange import Settings, open_source

BITS = 128
NAME = "benchmark-formats"
KINDS = ("npz", "pickle", "mysql", "parquet", "csv", "list")
EXPORTS = tuple(WRITERS)
PAGE = study.ROOT / "docs" / "formats.md"
BEGIN = "<!-- written by python -m benchmarks.formats --page -->"
# Rows of one INSERT: mysqldump fills about a megabyte.
AT_ONCE = 12_000
# A load must be worth a million rows' work to say anything; memory is compared with a tenth.
PART = 10


def make(folder: Path, rows: int, seed: int) -> None:
    """The same codes and paths in every format."""
    random = np.random.default_rng(seed)
    packed = random.integers(0, 256, (rows, BITS // 8), dtype=np.uint8)
    names = random.integers(0, 1 << 62, rows).tolist()
    paths = [
        f"/SUN397/m/manufactured_home/sun_{name:016x}_{row}.jpg" for row, name in enumerate(names)
    ]
    items = CodeSet(packed, BITS, paths)
    for kind in ("npz", "parquet", "csv"):
        with WRITERS[kind](folder / kind) as writer:
            for batch in items.batches(20_000):
                writer.write(batch)
    words = codes.to_words(packed, BITS).tolist()
    with (folder / "pickle").open("wb") as file:
        pickle.dump({row: tuple(four) for row, four in enumerate(words)}, file, protocol=3)
    with (folder / "paths").open("wb") as file:
        pickle.dump(paths, file, protocol=3)
    with (folder / "list").open("w") as text:
        text.writelines(
            f"{code.tobytes().hex()} {path}\n" for code, path in zip(packed, paths, strict=True)
        )
    with (folder / "mysql").open("w") as text:
        text.write("CREATE TABLE `img` (`id` int(11), `path` varchar(150), `code_1` bigint(20), "
                   "`code_2` bigint(20), `code_3` bigint(20), `code_4` bigint(20));\n")  # fmt: skip
        for start in range(0, rows, AT_ONCE):
            values = (
                f"({row + 1},'{paths[row]}',{','.join(map(str, words[row]))})"
                for row in range(start, min(start + AT_ONCE, rows))
            )
            text.write(f"INSERT INTO `img` VALUES {','.join(values)};\n")


def settings_of(kind: str, folder: Path) -> Settings:
    """What `load` would be told beside the file."""
    return Settings(paths=folder / "paths" if kind == "pickle" else None)


def worker(work: str, kind: str, folder: Path, url: str) -> None:
    """What a process of its own does; prints seconds and its peak of memory as JSON."""
    if work == "make":
        # Not in the process that starts the others: its peak would be where theirs begin.
        rows, seed = map(int, kind.split())
        make(folder, rows, seed)
    with connect(url) as db:
        started = time.perf_counter()
        if work == "load":
            db.load(open_source(folder / kind, settings_of(kind, folder), kind), encoder=NAME)
        elif work == "read":
            for _ in open_source(folder / kind, settings_of(kind, folder), kind).batches(20_000):
                pass
        elif work == "export":
            db.export(folder / f"exported.{kind}", encoder=NAME, format=kind)
        seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"seconds": seconds, "peak_mib": peak}))


def run(work: str, kind: str, folder: Path, url: str) -> dict[str, float]:
    """Start such a process."""
    command = [sys.executable, "-m", "benchmarks.formats", "--worker", work, kind, str(folder), url]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout)
    return found


def checked_rows(url: str) -> tuple[int, str]:
    """How many rows were loaded, and a digest over all of them; then they are removed."""
    with connect(url) as db:
        row = db.connection.execute(
            "SELECT count(*), sum(hashtextextended(format('%%s %%s %%s %%s %%s', path, code_1, "
            "code_2, code_3, code_4), 0))::text FROM images WHERE encoder_id = %s",
            [db.encoder(NAME).id],
        ).fetchone()
        assert row is not None
        return row[0], row[1]


def remove(url: str) -> None:
    """Leave nothing for the next load to lean on."""
    with connect(url) as db:
        if NAME in {stored.name for stored in db.encoders()}:
            db.remove_encoder(NAME)
            db.connection.execute("VACUUM images")


def measured(
    folder: Path, url: str, repeat: int, report: Callable[[str], None]
) -> dict[str, dict[str, list[float]]]:
    """Seconds and peaks of every load, all formats in turns."""
    found: dict[str, dict[str, list[float]]] = {
        kind: {"seconds": [], "peak_mib": []} for kind in KINDS
    }
    digests = set()
    for _ in range(repeat):
        for kind in KINDS:
            remove(url)
            took = run("load", kind, folder, url)
            digests.add(checked_rows(url))
            found[kind]["seconds"].append(round(took["seconds"], 2))
            found[kind]["peak_mib"].append(round(took["peak_mib"], 1))
            report(f"{kind}: {took['seconds']:.1f} s, {took['peak_mib']:.0f} MiB")
    if len(digests) != 1:
        raise SystemExit(f"The formats did not bring the same rows: {digests}")
    return found


def memory(
    folder: Path, part: Path, url: str, report: Callable[[str], None]
) -> dict[str, dict[str, float]]:
    """The peaks, in MiB, of a process that loads nothing, and of one that loads fewer rows."""
    few = measured(part, url, 1, report)
    return {
        "idle": {"peak_mib": round(run("nothing", "npz", folder, url)["peak_mib"], 1)},
        f"a_{PART}th_of_the_rows": {kind: few[kind]["peak_mib"][0] for kind in KINDS},
        "file_mib": {kind: round(os.path.getsize(folder / kind) / 2**20, 1) for kind in KINDS},
        "read_alone_seconds": {
            kind: round(run("read", kind, folder, url)["seconds"], 2) for kind in KINDS
        },
    }


def table(figures: dict[str, Any]) -> str:
    """The result as Markdown."""
    machine = figures["machine"]
    rounds = len(figures["loads"]["npz"]["seconds"])
    how_often = "one round" if rounds == 1 else f"the median of {rounds} rounds in turns"
    lines = [
        f"`{figures['command']}`, {figures['date']}; {machine['processor']}, {machine['cores']} "
        f"cores, {machine['memory_gib']} GiB; PostgreSQL {figures['postgresql']}. "
        f"{figures['rows']:,} codes of {figures['bits']} bits with their paths, into a table "
        "without rows of their encoder, "
        f"bucket indexes included; {how_often}. *Memory* is the peak of the "
        f"loading process, which has {figures['idle']['peak_mib']:.0f} MiB when it loads nothing; "
        f"beside it that of a load of a {PART}th of the rows.",
        "",
        "| format | file, MiB | seconds | over npz | memory, MiB | of fewer rows |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for kind in KINDS:
        load = figures["loads"][kind]
        lines.append(
            f"| {kind} | {figures['file_mib'][kind]:.0f} | {median(load['seconds']):.1f} | "
            f"{load['ratio_to_npz']:.2f} | {max(load['peak_mib']):.0f} | "
            f"{figures[f'a_{PART}th_of_the_rows'][kind]:.0f} |"
        )
    lines += ["", "| export | seconds | memory, MiB |", "|---|--:|--:|"]
    for kind in EXPORTS:
        export = figures["exports"][kind]
        lines.append(f"| {kind} | {export['seconds']:.1f} | {export['peak_mib']:.0f} |")
    return "\n".join(lines)


def written(page: str) -> str:
    """The page with the table of the result file between its marks."""
    figures = json.loads((study.RESULTS / "formats.json").read_text())
    return replaced(page, [table(figures)], BEGIN)


def main() -> None:
    if sys.argv[1:2] == ["--worker"]:
        worker(sys.argv[2], sys.argv[3], Path(sys.argv[4]), sys.argv[5])
        return
    if sys.argv[1:] == ["--page"]:
        rewrite(PAGE, written)
        return
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--files", type=Path, help="keep the files there, and use them again")
    parser.add_argument("--add", action="store_true", help="one more round for the result file")
    options = parser.parse_args()

    def report(message: str) -> None:
        print(message, file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory() as name, connect(options.database, report=report) as db:
        url = db.target.url
        folder, part = ((options.files or Path(name)) / which for which in ("all", "part"))
        for place, rows in ((folder, options.rows), (part, options.rows // PART)):
            if not place.is_dir():
                place.mkdir(parents=True)
                run("make", f"{rows} {options.seed}", place, url)
        loads = measured(folder, url, 1 if options.add else options.repeat, report)
        if options.add:
            figures = json.loads((study.RESULTS / "formats.json").read_text())
            for kind in KINDS:
                for name, values in loads[kind].items():
                    figures["loads"][kind][name] += values
        else:
            figures = {
                "postgresql": db.connection.info.parameter_status("server_version"),
                "pyarrow": version("pyarrow"),
                "bits": BITS,
                "rows": options.rows,
                "seed": options.seed,
                "loads": loads,
                "exports": {
                    kind: {
                        name: round(value, 1)
                        for name, value in run("export", kind, folder, url).items()
                    }
                    for kind in EXPORTS
                },
                **memory(folder, part, url, report),
            }
        remove(url)
    npz = median(figures["loads"]["npz"]["seconds"])
    for kind in KINDS:
        seconds = median(figures["loads"][kind]["seconds"])
        figures["loads"][kind]["ratio_to_npz"] = round(seconds / npz, 2)
    study.write("formats", "python -m benchmarks.formats", figures)


if __name__ == "__main__":
    main()
