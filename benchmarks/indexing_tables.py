"""The tables of docs/indexing.md, from the result files.

    python -m benchmarks.indexing_tables

Everything between the two markers of the page is written anew; a study that has not been run has
no table.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.pages import Result, heading, replaced, results, rewrite, shown, table
from benchmarks.study import ROOT

PAGE = ROOT / "docs" / "indexing.md"
BEGIN = "<!-- written by python -m benchmarks.indexing_tables -->"

# What the issue of this part asked for.
CPU_TARGET, GPU_TARGET, WRITER_TARGET, FINE_TARGET = 0.95, 0.85, 1.5, 5.0


COMPARED = {
    "hamming_64": "64 bits",
    "hamming_128": "128 bits",
    "euclidean_4096": "4,096 floats",
    "euclidean_4096_by_product": "4,096 floats, as one matrix product",
    "vector": "4,096 floats (`vector`)",
    "halfvec": "4,096 half-floats (`halfvec`)",
}


def reached(value: float, target: float, *, at_most: bool = False) -> str:
    """Whether a target is reached, in words."""
    good = value <= target if at_most else value >= target
    return f"{'reached' if good else 'missed'} ({'≤' if at_most else '≥'} {target})"


def pipeline_part() -> Iterator[str]:
    for result in results("pipeline*"):
        yield from heading(result, "The pipeline against its stages alone")
        for name in ("network", "phash64"):
            if name not in result:
                continue
            found = result[name]
            gpu = found.get("device", "cpu") != "cpu"
            title = "phash64"
            if name == "network":
                title = (
                    f"mobilenet_v2, {found['precision']}, {found.get('decoder', 'pillow')}, "
                    f"on {found['device']}"
                )
            yield f"**{title}**, {found['photos']:,} photos; images a second, median of the runs:"
            yield ""
            target = GPU_TARGET if gpu else CPU_TARGET
            head = ["readers", "decode alone", "network alone", "possible", "pipeline"]
            head += ["share of the possible", "target"]
            yield from table(
                head,
                (
                    [
                        readers,
                        one["decode_alone_images_per_second"],
                        one["network_alone_images_per_second"],
                        one["possible_images_per_second"],
                        one["pipeline_images_per_second"],
                        one["reached"],
                        reached(one["reached"], target),
                    ]
                    for readers, one in found["readers"].items()
                ),
            )
            processor = found["processor_time_alone_over_pipeline"].items()
            shares = ", ".join(f"{shown(share)} with {way}" for way, share in processor)
            yield (
                f"Processor time of both alone over that of the pipeline: {shares}. It is less "
                "disturbed by other programs than the rates are, but does not see waiting."
            )
            yield ""
            if (script := found.get("dataloader_loop_insert_images_per_second")) is not None:
                yield (
                    "A plain script (`DataLoader`, a loop over batches, an `INSERT` for each row): "
                    f"{shown(script)} images a second."
                )
                yield ""
        yield from writer_part(result.get("writer"))


def writer_part(found: Result | None) -> Iterator[str]:
    if found is None:
        return
    yield (
        f"**The writer**, {found['rows']:,} rows of {found['bits']} bits, against COPY of the same "
        "bytes in the same transactions:"
    )
    yield ""
    yield from table(
        ["", "rows a transaction", "rows a second", "time over bare COPY", "target"],
        (
            [
                name.replace("_", " "),
                one["rows_in_a_transaction"],
                one["rows_per_second"],
                one["ratio_to_bare_copy"],
                reached(one["ratio_to_bare_copy"], WRITER_TARGET, at_most=True),
            ]
            for name, one in found.items()
            if isinstance(one, dict)
        ),
    )


def footprint_part() -> Iterator[str]:
    for result in results("footprint"):
        yield from heading(result, "Memory over time")
        kinds = [kind for kind in ("phash64", "network") if kind in result]
        head = ["", "images", *(f"{part} %" for part in range(10, 101, 10)), "peak"]
        yield "Resident MiB of the program at each tenth of the run:"
        yield ""
        yield from table(
            head,
            (
                [
                    result[kind]["encoder"],
                    result[kind]["images"],
                    *(round(sample["mib"]) for sample in result[kind]["mib_over_time"]),
                    round(result[kind]["peak_mib"]),
                ]
                for kind in kinds
            ),
        )


def recording_part() -> Iterator[str]:
    for result in results("recording"):
        yield from heading(result, "Networks recorded as graphs, and called layer by layer")
        yield (
            "Random weights; milliseconds an image on all processors. *Packed*: the weights, once "
            "instead of in each call. *Apart*: features of both ways, |difference| / |feature|, "
            "the largest of all images; 0 where they are the same bits."
        )
        yield ""
        yield from table(
            ["network", "pixels", "precision", "layers", "graph", "ratio", "packed", "apart"],
            (
                [
                    line["network"],
                    line["input_size"],
                    line["precision"],
                    line["layers_ms"],
                    line["graph_ms"],
                    line["ratio"],
                    "yes" if line["packed"] else "",
                    "0" if line["same_features"] else f"{line['largest_relative_difference']:.0e}",
                ]
                for line in result["lines"]
            ),
        )


def precision_part() -> Iterator[str]:
    for result in results("precision"):
        yield from heading(result, "bfloat16, and torchcodec, against float32 and Pillow")
        yield (
            f"{result['backbone']}, {result['method']}, on {result['device']}; "
            f"{result['database']:,} photos of clothes, {result['queries']} queries; images a "
            "second: decoding and resizing in one thread, the network on all."
        )
        yield ""
        head = ["", "bits that differ", "mAP", "change", "decode and resize", "network"]
        yield from table(
            head,
            (
                [
                    way,
                    f"{found['flipped_bits']:.2%}",
                    found["mAP"],
                    f"{found['change_of_mAP']:+}" if found["flipped_bits"] else "",
                    found["decode_images_per_second"],
                    found["network_images_per_second"],
                ]
                for way, found in result["ways"].items()
            ),
        )


def flip_part() -> Iterator[str]:
    for result in results("flip"):
        yield from heading(result, "Photos alone, and with --flip")
        yield (
            f"ITQ on {result['features']}; {result['database']:,} photos of clothes, "
            f"{result['queries']} queries; then mirrored copies of the database as queries "
            f"(mean of {len(result['seeds'])} seeds; ± is the standard deviation)."
        )
        yield ""
        head = ["", "mAP", "bits that differ in a mirrored copy", "whose original is the nearest"]
        rows = []
        for bits in result["alone"]:
            for name, side in (("alone", result["alone"]), ("--flip", result["flip"])):
                found = side[bits]
                score = found["map"]
                rows.append(
                    [
                        f"itq{bits}, {name}",
                        f"{score['mean']:.4f} ± {score['sd']:.4f}",
                        *_of_mirrored(found),
                    ]
                )
        yield from table(head, rows)


def _of_mirrored(found: Result) -> tuple[object, str]:
    """Bits that differ in a mirrored copy, and how many have their original as the nearest."""
    if "distance_of_mirrored" not in found:
        return "0, the same code", ""
    return (
        found["distance_of_mirrored"]["mean"],
        f"{found['original_is_nearest']['mean']:.1%}",
    )


def fine_part() -> Iterator[str]:
    for result in results("fine"):
        yield from heading(result, "The fine stage")
        yield (
            f"{result['rows']:,} rows, pool {result['pool']}, k = {result['k']}, one core; "
            "milliseconds a query (median and p95), client call included:"
        )
        yield ""
        head = ["D", "coarse", "p95", "both", "p95", "fine stage", "p95", "in a batch", "target"]
        rows: list[list[object]] = []
        for key, one in result.items():
            if not key.startswith("dim_"):
                continue
            times = [one["coarse_ms"], one["both_stages_ms"], one["fine_stage_ms"]]
            rows.append(
                [
                    int(key.removeprefix("dim_")),
                    *(value for time in times for value in (time["median"], time["p95"])),
                    one["batch_ms_per_query"],
                    reached(one["fine_stage_ms"]["median"], FINE_TARGET, at_most=True),
                ]
            )
        yield from table(head, rows)
        for key, one in result.items():
            if key.startswith("dim_") and one["pools_beyond_400"]["queries"]:
                grown = one["pools_beyond_400"]
                yield (
                    f"{key.replace('_', ' ')}: {grown['queries']} of {one['queries']} pools grew "
                    f"beyond 400 by ties (median {grown['pool_size_median']:,} rows; fine stage "
                    f"{shown(grown['fine_stage_ms']['median'])} ms); they are not counted above."
                )
                yield ""


def distances_part() -> Iterator[str]:
    for result in results("distances"):
        yield from heading(result, "Hamming distance against 4,096 floats")
        yield (
            "The ten nearest of all rows by a scan, one core: milliseconds a query, nanoseconds a "
            "comparison; beside it the search through buckets, for which these uniform codes are "
            "the worst case. A million floats in NumPy are a block that fits into memory, gone "
            "through as often as it takes; in PostgreSQL a table that does not fit is read from "
            "the disk."
        )
        yield ""
        rows: list[list[object]] = []
        places = (("NumPy", result["in_numpy"]), ("PostgreSQL", result["in_postgresql"]))
        for place, sizes in places:
            for size, kinds in sizes.items():
                for kind, one in kinds.items():
                    parts = [(kind, one)] if "query_ms" in one else list(one.items())
                    for name, part in parts:
                        rows.append(
                            [
                                f"{place}, {COMPARED[name]}",
                                int(size),
                                part["query_ms"],
                                part["nanoseconds_per_comparison"],
                                part.get("search_codes_ms"),
                                part["bytes"] / 1e9 if "bytes" in part else None,
                            ]
                        )
        yield from table(["", "rows", "ms", "ns each", "through buckets, ms", "GB stored"], rows)


def written(page: str) -> str:
    """The page with its tables written anew."""
    parts = (
        pipeline_part,
        recording_part,
        footprint_part,
        precision_part,
        flip_part,
        fine_part,
        distances_part,
    )
    return replaced(page, (line for part in parts for line in part()), BEGIN)


if __name__ == "__main__":
    rewrite(PAGE, written)
