"""The tables of docs/benchmarks.md, from the result files.

    python -m benchmarks.search_tables

Everything between the two markers of the page is written anew. No figure stands there that is not
in a file of `benchmarks/results`; a study that has not been run has no table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from benchmarks.study import RESULTS, ROOT

PAGE = ROOT / "docs" / "benchmarks.md"
BEGIN = "<!-- written by python -m benchmarks.search_tables -->"
END = "<!-- end of what it writes -->"

# Of the cells over the limit, so many are listed for each table.
WORST = 10

Result = dict[str, Any]


def results(name: str) -> list[Result]:
    """The result files of a name pattern, smallest table first."""
    found = [json.loads(path.read_text()) for path in RESULTS.glob(f"{name}.json")]
    return sorted(found, key=lambda result: (result.get("workload", ""), result.get("rows", 0)))


def searches() -> list[Result]:
    """Those of benchmarks.search that name their peers."""
    return [
        result
        for result in results("search-*")
        if all("peers" in question for question in result["questions"])
    ]


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    """A Markdown table; the first column is text, the others are numbers."""
    lines = [f"| {' | '.join(head)} |", "|---|" + "--:|" * (len(head) - 1)]
    lines += [f"| {' | '.join(map(shown, row))} |" for row in rows]
    return [*lines, ""]


def shown(value: object) -> str:
    """A number as people read it."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        size = abs(value)
        return f"{value:,.0f}" if size >= 100 else f"{value:.3g}"
    return str(value)


def heading(result: Result, title: str) -> list[str]:
    """A title, with the command, the day and the machine."""
    machine = result["machine"]
    versions = [f"{name} {found}" for name, found in result.get("versions", {}).items()]
    if "postgresql" in result:
        versions.insert(0, f"PostgreSQL {result['postgresql']}")
    place = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    return [
        f"### {title}",
        "",
        f"`{result['command']}`, {result['date']}; " + "; ".join([place, *versions]),
        "",
    ]


def question_of(found: Result) -> str:
    return f"k = {found['k']}" if found["k"] is not None else f"radius {found['radius']}"


def search_part() -> Iterator[str]:
    for result in searches():
        title = f"{result['workload']}: {result['rows']:,} codes of {result['bits']} bits"
        yield from heading(result, title)
        yield (
            f"{result['queries']:,} queries, seed {result['seed']}; bucket indexes "
            f"{shown(result['bucket_index_bytes_per_row'])} bytes a row, primary and unique keys "
            f"{shown(result['primary_and_unique_key_bytes_per_row'])}."
        )
        yield ""
        for found in result["questions"]:
            last = found["distance_of_the_last"]
            yield (
                f"**{question_of(found)}** (the last row at {shown(last['p50'])} bits at p50, "
                f"{shown(last['p95'])} at p95; answers unlike the scan's: "
                f"{found['answers_unlike_the_scan']})"
            )
            yield ""
            head = ["", "p50 ms", "p95", "p99", "processor p50 ms", "p95"]
            head += ["recall", "worst query", "p50 as a multiple of ours"]
            yield from table(head, map(peer_row, found["peers"]))
            if found.get("hnsw_settings"):
                steps = ", ".join(
                    f"{step['ef']}: {step['recall']['mean']} ({step['recall']['worst']})"
                    for step in found["hnsw_settings"]
                )
                yield f"HNSW's recall, mean (worst query), by `hnsw.ef_search`: {steps}."
                yield ""


def peer_row(peer: Result) -> list[object]:
    wall = peer["milliseconds"]
    processor = peer.get("processor_milliseconds", {})
    times = peer.get("milliseconds_over_ours", {}).get("p50")
    name = f"**{peer['name']}**" if times is None else peer["name"]
    return [
        f"{name} ({peer['queries']} queries)",
        *(wall[p] for p in ("p50", "p95", "p99")),
        processor.get("p50"),
        processor.get("p95"),
        peer["recall"]["mean"],
        peer["recall"]["worst"],
        times,
    ]


def building_part() -> Iterator[str]:
    for result in results("building-*"):
        yield from heading(result, f"From raw codes to a searchable table, {result['rows']:,} rows")
        rows: list[list[object]] = []
        for name, key, size in (
            ("**retrieval-db**", "ours", result["bytes_per_row_buckets"]),
            ("pgvector HNSW", "hnsw", result["bytes_per_row_hnsw"]),
        ):
            if key in result:
                rows.append([name, result[key]["seconds"], result[key]["copy_seconds"], size])
        yield from table(["", "seconds", "of them COPY", "index bytes a row"], rows)
        if "hnsw_over_ours" in result:
            yield f"HNSW takes {shown(result['hnsw_over_ours'])} times as long."
            yield ""


def growth_part() -> Iterator[str]:
    for result in results("growth"):
        yield from heading(result, "Growth: clustered codes of 128 bits")
        rows: list[list[object]] = []
        for size in result["sizes"]:
            for found in size["questions"]:
                ours, scan = found["ours"]["milliseconds"], found["scan"]["milliseconds"]
                rows.append(
                    [
                        f"{size['rows']:,} rows, {question_of(found)}",
                        ours["p50"],
                        ours["p95"],
                        scan["p50"],
                        scan["p95"],
                        found["scan_over_ours_milliseconds"]["p50"],
                        size["bucket_index_bytes_per_row"],
                        size["load_index_vacuum_seconds"],
                    ]
                )
        head = ["", "p50 ms", "p95", "scan p50 ms", "p95", "scan over ours"]
        yield from table([*head, "index bytes a row", "build seconds"], rows)


def layouts_part() -> Iterator[str]:
    for result in results("layouts-*"):
        yield from heading(result, f"Covering and compact layouts, {result['rows']:,} codes")
        rows: list[list[object]] = []
        for width in result["widths"]:
            for kind in ("covering", "compact"):
                rows.append(
                    [
                        f"{width['bits']} bits, {kind} ({width[kind]['chunk_widths']})",
                        width[kind]["bucket_index_bytes_per_row"],
                        width[kind]["primary_and_unique_key_bytes_per_row"],
                        width[kind]["tune_seconds"],
                        *(found[kind]["milliseconds"]["p50"] for found in width["questions"]),
                        *(found[f"scan_over_{kind}_p50"] for found in width["questions"]),
                    ]
                )
        asked = [question_of(found) for found in result["widths"][0]["questions"]]
        head = ["chunks", "index bytes a row", "keys, bytes a row", "tune seconds"]
        head += [f"{question}, p50 ms" for question in asked]
        yield from table([*head, *(f"scan over it, {question}" for question in asked)], rows)


def limits_part() -> Iterator[str]:
    found = results("limits-*")
    if not found:
        return
    yield from heading(found[-1], "Never slower than the scan")
    yield "The limit is the scan's time and 15 % or 1 ms more, whichever is more, at p50 and p95."
    yield ""
    head = ["", "cells", "over the limit, twice measured", "only once", "in processor time"]
    yield from table(
        head,
        [
            [
                limits_of(result),
                result["cells"],
                len(result["over_limit_twice"]),
                len(result["over_limit_once"]),
                len(result["processor_over_limit"]),
            ]
            for result in found
        ],
    )
    for result in found:
        over = [entry for entry in result["each_cell"] if entry.get("over_limit_twice")]
        over.sort(key=lambda entry: entry["ms"]["scan_p50"] / entry["ms"]["ours_p50"])
        if len(over) > WORST:
            yield f"- {limits_of(result)}: the {WORST} worst of {len(over)}; the file has them all"
        for entry in over[:WORST]:
            again = {name: shown(value) for name, value in entry["again"]["ms"].items()}
            yield (
                f"- {limits_of(result)}, {entry['cell']}: {again['ours_p50']} ms (p95 "
                f"{again['ours_p95']}), the scan {again['scan_p50']} ({again['scan_p95']}); "
                f"{entry['plan']}"
            )
    yield ""


def limits_of(result: Result) -> str:
    parallel = ", parallel" if result["parallel"] else ""
    return f"{result['workload']}, {result['rows']:,} rows{parallel}"


def clients_part() -> Iterator[str]:
    for result in results("clients-*"):
        title = f"Queries per second, {result['rows']:,} clustered codes, k = {result['k']}"
        yield from heading(result, title)
        rates = result["queries_per_second"]
        counts = list(next(iter(rates.values())))  # such as 8_clients
        yield from table(
            ["clients", *(key.partition("_")[0] for key in counts)],
            [[name, *(found[key] for key in counts)] for name, found in rates.items()],
        )


def crowd_part() -> Iterator[str]:
    for result in results("crowd"):
        yield from heading(
            result, f"{result['encoders']} encoders in one table, against each alone"
        )
        rows = [
            [
                f"{found['bits']} bits, {found['rows']:,} rows",
                found["alone"]["milliseconds"]["p50"],
                found["in_the_crowd"]["milliseconds"]["p50"],
                found["milliseconds_ratio"]["p50"],
                found.get("processor_milliseconds_ratio", {}).get("p50"),
            ]
            for found in result["each"]
        ]
        head = ["", "alone, p50 ms", "in the crowd", "ratio", "of processor time"]
        yield from table(head, rows)


def loading_part() -> Iterator[str]:
    names = {
        "bare_copy": "bare COPY into `images` with its keys",
        "bare_copy_keys_only": "bare COPY into a table with the keys only",
        "new_paths": "**new paths**",
        "existing_paths": "**existing paths**",
        "existing_paths_without_bucket_indexes": "existing paths, no bucket indexes",
    }
    for result in results("loading-*"):
        yield from heading(result, f"Loading {result['rows']:,} codes")
        head = ["", "seconds", "with indexes and vacuum", "over bare COPY", "over keys only"]
        yield from table(
            [*head, "client's peak memory, MiB"],
            [
                [
                    name,
                    result[key]["seconds"],
                    result[key].get("seconds_with_indexes_and_vacuum"),
                    result[key].get("over_bare_copy"),
                    result[key].get("over_bare_copy_keys_only"),
                    result[key].get("client_peak_memory_mib"),
                ]
                for key, name in names.items()
            ],
        )


def duplicates_part() -> Iterator[str]:
    for result in results("duplicates"):
        yield from heading(result, f"Near-duplicates within {result['radius']} bits")
        uniform = result["uniform"]
        rows: list[list[object]] = [
            [
                f"{uniform['rows']:,} uniform codes, {key.replace('_', ' ')}",
                sorted(uniform[key]["seconds"])[len(uniform[key]["seconds"]) // 2],
                sorted(uniform[key]["faiss_seconds_scaled_up"])[len(uniform[key]["seconds"]) // 2],
                uniform[key]["ratio"],
            ]
            for key in ("one_core", "all_cores")
        ]
        real = result["sun397"]
        rows.append(
            [
                f"{real['rows']:,} SUN397 codes, as groups",
                sorted(real["seconds"])[len(real["seconds"]) // 2],
                real["faiss_seconds_scaled_up"],
                real["ratio"],
            ]
        )
        yield from table(["", "seconds", "FAISS all against all, scaled up", "ratio"], rows)


@dataclass(frozen=True)
class Target:
    """What was set out to be reached.

    Attributes:
        what: in words.
        files: result files that tell.
        value: the figure in such a file; None where it is not there.
        least, most: the bound it has to keep.
        each: every file counts, not only the one with the largest table.
        size: rows that the bound is about; a figure of another table decides nothing.
    """

    what: str
    files: str
    value: Callable[[Result], float | None]
    least: float | None = None
    most: float | None = None
    each: bool = False
    size: int | None = None

    def rows(self) -> Iterator[list[object]]:
        """A row for each file, or for the one with the largest table."""
        bound = f"at least {shown(self.least)}" if self.least else f"at most {shown(self.most)}"
        values = [(result, self.value(result)) for result in results(self.files)]
        known = [(result, value) for result, value in values if value is not None]
        if not known:
            yield [self.what, bound, None, "not measured", None]
        for result, value in known if self.each else known[-1:]:
            met = (self.least is None or value >= self.least) and (
                self.most is None or value <= self.most
            )
            about = f"{result['rows']:,}" if "rows" in result else ""
            if self.each:
                about = f"{result['workload']}, {about}"
            verdict = "reached" if met else "**missed**"
            if self.size and self.size != result["rows"]:
                verdict = f"not measured at {self.size:,}"
            yield [self.what, bound, value, verdict, about]


def figure(
    k: int | None, radius: int | None, read: Callable[[dict[str, Result]], float | None]
) -> Callable[[Result], float | None]:
    """A figure of one question, from its peers by name."""

    def value(result: Result) -> float | None:
        for found in result["questions"]:
            if (found["k"], found["radius"]) == (k, radius) and "peers" in found:
                return read({peer["name"]: peer for peer in found["peers"]} | {"": found})
        return None

    return value


def over_ours(name: str) -> Callable[[dict[str, Result]], float | None]:
    """A peer's p50 as a multiple of ours."""

    def value(by_name: dict[str, Result]) -> float | None:
        found: float | None = by_name.get(name, {}).get("milliseconds_over_ours", {}).get("p50")
        return found

    return value


def whole_hnsw(by_name: dict[str, Result]) -> float | None:
    """HNSW's p50 as a multiple of ours, at the first setting that missed nothing."""
    return over_ours(f"pgvector HNSW, ef {by_name[''].get('hnsw_first_ef_with_recall_1')}")(by_name)


def spread(by_name: dict[str, Result]) -> float | None:
    found: float = by_name["retrieval-db"]["milliseconds_p95_over_p50"]
    return found


def compact_bytes(result: Result) -> float | None:
    sizes = {
        width["bits"]: float(width["compact"]["bucket_index_bytes_per_row"])
        for width in result["widths"]
    }
    return sizes.get(128)


CLUSTERED, FLAT = "search-clustered-*", "FAISS IndexBinaryFlat"
SCAN = over_ours("scan")
TEN = 10_000_000
TARGETS = (
    Target("clustered, k = 1: scan over ours", CLUSTERED, figure(1, None, SCAN), 700, size=TEN),
    Target("clustered, k = 10: scan over ours", CLUSTERED, figure(10, None, SCAN), 400, size=TEN),
    Target("clustered, k = 100: scan over ours", CLUSTERED, figure(100, None, SCAN), 150, size=TEN),
    Target(
        "clustered, k = 10: our p95 over p50", CLUSTERED, figure(10, None, spread), most=4, size=TEN
    ),
    Target(
        "clustered, k = 10: FAISS flat over ours",
        CLUSTERED,
        figure(10, None, over_ours(FLAT)),
        least=1,
        size=TEN,
    ),
    Target(
        "clustered, k = 10: HNSW at recall 1 over ours",
        CLUSTERED,
        figure(10, None, whole_hnsw),
        least=1,
        size=TEN,
    ),
    Target(
        "near-duplicates of 128 bits, radius 7: scan over ours",
        "search-flipped128-*",
        figure(None, 7, SCAN),
        least=2_000,
        size=TEN,
    ),
    Target(
        "near-duplicates of 256 bits, radius 31: scan over ours",
        "search-flipped256-*",
        figure(None, 31, SCAN),
        least=100,
        size=TEN,
    ),
    Target("SUN397, k = 20: scan over ours", "search-sun397-*", figure(20, None, SCAN), least=20),
    Target(
        "k, radii and filters that are slower than the scan, and may not be",
        "limits-*",
        lambda found: float(len(found["over_limit_twice"])),
        most=0,
        each=True,
    ),
    Target(
        "building HNSW over ours",
        "building-*",
        lambda found: found.get("hnsw_over_ours"),
        least=15,
        size=TEN,
    ),
    Target(
        "bucket index, bytes a row at 128 bits",
        CLUSTERED,
        lambda found: float(found["bucket_index_bytes_per_row"]),
        most=420,
    ),
    Target(
        "compact layout, bytes a row at 128 bits",
        "layouts-*",
        compact_bytes,
        most=70,
    ),
    Target(
        "new paths over a bare COPY",
        "loading-*",
        lambda found: float(found["new_paths"]["over_bare_copy"]),
        most=1.5,
    ),
    Target(
        "existing paths over a bare COPY",
        "loading-*",
        lambda found: float(found["existing_paths"]["over_bare_copy"]),
        most=3,
    ),
    Target(
        "twenty encoders, worst ratio at p50",
        "crowd",
        lambda found: float(found["ratio_at_p50"]["worst"]),
        most=1.2,
    ),
    Target(
        "near-duplicate pairs, one core: FAISS over ours",
        "duplicates",
        lambda found: float(found["uniform"]["one_core"]["ratio"]),
        least=40,
    ),
)


def targets_part() -> Iterator[str]:
    yield "### What was to be reached"
    yield ""
    rows = [row for target in TARGETS for row in target.rows()]
    yield from table(["", "target", "measured", "", "rows"], rows)


PARTS = (
    targets_part,
    search_part,
    building_part,
    growth_part,
    layouts_part,
    limits_part,
    clients_part,
    crowd_part,
    loading_part,
    duplicates_part,
)


def render() -> str:
    """The text between the markers."""
    return "\n".join(line for part in PARTS for line in part()).rstrip() + "\n"


def written(page: str) -> str:
    """The page with its tables anew."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        sys.exit(f"{PAGE} has not both markers:\n{BEGIN}\n{END}")
    return f"{before}{begin}\n\n{render()}\n{end}{after}"


def main() -> None:
    PAGE.write_text(written(PAGE.read_text()))
    print(f"Wrote {PAGE.relative_to(ROOT)}", file=sys.stderr)


if __name__ == "__main__":
    main()
