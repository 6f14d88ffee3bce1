"""The tables of docs/memory.md, from the result files of benchmarks.memory.

    python -m benchmarks.memory_tables

Everything between the two markers of the page is written anew.
"""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.pages import Result, heading, replaced, results, rewrite, shown, table
from benchmarks.study import ROOT

PAGE = ROOT / "docs" / "memory.md"
BEGIN = "<!-- written by python -m benchmarks.memory_tables -->"

# At most this many times FAISS, k = 10, NumPy on one core.
TARGET = 4
INDEXES = {
    "numpy": "NumPy, one core",
    "faiss": "FAISS IndexBinaryFlat, one thread",
    "faiss_ties_by_id": "the same, ties by id",
}
SOURCES = {"database": "database", "numpy": "memory, NumPy", "faiss": "memory, FAISS"}


def scan_part() -> Iterator[str]:
    for result in results("memory-scan"):
        yield from heading(result, f"Brute force over {result['rows']:,} codes")
        for found in result["questions"]:
            yield f"k = {found['k']}; answers that differ: {found['answers_that_differ']}"
            yield ""
            rows: list[list[object]] = [
                [
                    name,
                    found["milliseconds"][key]["p50"],
                    found["milliseconds"][key]["p95"],
                    found["batch_of_100_milliseconds_each"][key],
                ]
                for key, name in INDEXES.items()
            ]
            part = found["numpy_filtered_to_a_tenth_milliseconds"]
            rows.append(["NumPy, one row in ten passes a filter", part["p50"], part["p95"], None])
            yield from table(["", "p50 ms", "p95", "ms each of a batch of 100"], rows)
            if found["k"] == 10:
                measured = found["numpy_over_faiss_p50"]
                verdict = "reached" if measured <= TARGET else "**missed**"
                yield (
                    f"NumPy takes {shown(measured)} times as long as FAISS; at most {TARGET} times "
                    f"was to be reached: {verdict}."
                )
                yield ""


def sources_part() -> Iterator[str]:
    for result in results("memory-sources"):
        yield from heading(result, f"Memory or database, k = {result['k']}")
        for found in result["tables"]:
            yield f"**{found['rows']:,} rows**; answers that differ: {found['answers_that_differ']}"
            yield ""
            yield from table(
                ["", "p50 ms", "p95", "ms each of a batch", "reading, s", "pays after searches",
                 "in batches", "search after a change, ms"],
                [source_row(found, key, name) for key, name in SOURCES.items()],
            )  # fmt: skip


def source_row(found: Result, key: str, name: str) -> list[object]:
    row: list[object] = [
        name,
        found["milliseconds"][key]["p50"],
        found["milliseconds"][key]["p95"],
        found["batch_of_100_milliseconds_each"][key],
    ]
    if key == "database":
        return [*row, None, None, None, None]
    for pays in ("searches_until_reading_pays", "batched_queries_until_reading_pays"):
        row.append(found[pays][key] or "never")
    row.insert(4, found[f"{key}_read_seconds"])
    return [*row, found["milliseconds_after_a_change"][key]["p50"]]


def noting_part() -> Iterator[str]:
    for result in results("memory-noting"):
        yield from heading(result, "What noting changes costs a statement")
        times = result["milliseconds_p50"]
        yield from table(
            ["rows", "p50 ms, noted", "not noted", "ratio"],
            [
                [what.replace("_", " "), by["noted"], by["not_noted"],
                 result["noted_over_not_noted"][what]]
                for what, by in times.items()
            ],
        )  # fmt: skip


def written(page: str) -> str:
    """The page with its tables anew."""
    parts = (scan_part, sources_part, noting_part)
    return replaced(page, (line for part in parts for line in part()), BEGIN)


if __name__ == "__main__":
    rewrite(PAGE, written)
