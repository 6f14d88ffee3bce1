"""The tables of docs/benchmarks.md, and the one in the README, from the result files.

    python -m benchmarks.search_tables

Everything between the two markers of a page is written anew. No figure stands there that is not
in a file of `benchmarks/results`; a study that has not been run has no table.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.pages import Result, heading, replaced, results, rewrite, shown, table
from benchmarks.study import ROOT
from benchmarks.targets import TARGETS

PAGE = ROOT / "docs" / "benchmarks.md"
README = ROOT / "README.md"
BEGIN = "<!-- written by python -m benchmarks.search_tables -->"

# Of the cells over the limit, so many are listed for each table.
WORST = 10


def searches() -> list[Result]:
    """Those of benchmarks.search that name their peers."""
    return [
        result
        for result in results("search-*")
        if all("peers" in question for question in result["questions"])
    ]


def question_of(found: Result) -> str:
    return f"k = {found['k']}" if found["k"] is not None else f"radius {found['radius']}"


def search_part() -> Iterator[str]:
    for result in searches():
        title = f"{result['workload']}: {result['rows']:,} codes of {result['bits']} bits"
        if any(found.get("hnsw_settings") for found in result["questions"]):
            title += ", HNSW's index beside ours"
        yield from heading(result, title)
        yield (
            f"{result['queries']:,} queries, seed {result['seed']}; bucket indexes "
            f"{shown(result['bucket_index_bytes_per_row'])} bytes a row, primary and unique keys "
            f"{shown(result['primary_and_unique_key_bytes_per_row'])}."
        )
        if first := result.get("first_queries"):
            yield (
                f"Our first {first['queries']} queries, {question_of(first)}, before any other: "
                f"p50 {shown(first['milliseconds']['p50'])} ms."
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
    sizes = results("growth-*")
    if not sizes:
        return
    yield from heading(sizes[0], "Growth: clustered codes of 128 bits", *sizes[1:])
    rows: list[list[object]] = []
    for size in sizes:
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
    yield from heading(found[0], "Never slower than the scan", *found[1:])
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


def written(page: str) -> str:
    """The page with its tables anew."""
    return replaced(page, (line for part in PARTS for line in part()), BEGIN)


def headline() -> Iterator[str]:
    """Ten nearest of the largest table, where HNSW's index stands beside ours."""
    result = max(results("search-hnsw-clustered-*"), key=lambda found: int(found["rows"]))
    (found,) = (question for question in result["questions"] if question["k"] == 10)
    yield (
        f"The ten nearest of {result['rows']:,} codes of {result['bits']} bits, one core "
        f"({result['machine']['processor']}), medians:"
    )
    yield ""
    yield from table(
        ["", "queries", "milliseconds", "recall", "worst query"],
        [
            [
                f"**{peer['name']}**" if place == 0 else peer["name"],
                peer["queries"],
                peer["milliseconds"]["p50"],
                peer["recall"]["mean"],
                peer["recall"]["worst"],
            ]
            for place, peer in enumerate(found["peers"])
        ],
    )
    (built,) = results(f"building-{result['rows']}")
    yield (
        f"From raw codes to a searchable table, in a run of its own on all cores, it took "
        f"{shown(built['ours']['seconds'])} seconds, HNSW {shown(built['hnsw_over_ours'])} times "
        "as long. More, with commands and targets, missed ones too: "
        "[docs/benchmarks.md](docs/benchmarks.md)."
    )


def readme_written(page: str) -> str:
    """The README with its table anew."""
    return replaced(page, headline(), BEGIN)


if __name__ == "__main__":
    rewrite(PAGE, written)
    rewrite(README, readme_written)
