"""What was to be reached, and whether the result files say that it is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from benchmarks.pages import Result, results, shown


@dataclass(frozen=True)
class Target:
    """What was set out to be reached.

    Attributes:
        what: in words.
        files: names of result files that tell, as patterns.
        value: the figure in such a file; None where it is not there.
        least, most: the bound it has to keep.
        each: every file counts, not only the one with the largest table.
        size: rows that the bound is about: every file of so many counts, and no other decides.
    """

    what: str
    files: str | tuple[str, ...]
    value: Callable[[Result], float | None]
    least: float | None = None
    most: float | None = None
    each: bool = False
    size: int | None = None

    def rows(self) -> Iterator[list[object]]:
        """A row for each file that counts."""
        bound = f"at least {shown(self.least)}" if self.least else f"at most {shown(self.most)}"
        names = (self.files,) if isinstance(self.files, str) else self.files
        values = [(result, self.value(result)) for result in results(*names)]
        known = [(result, value) for result, value in values if value is not None]
        if not known:
            yield [self.what, bound, None, "not measured", None]
        deciding = [each for each in known if self.size and self.size == each[0]["rows"]]
        for result, value in known if self.each else deciding or known[-1:]:
            met = (self.least is None or value >= self.least) and (
                self.most is None or value <= self.most
            )
            about = f"{result['rows']:,}" if "rows" in result else ""
            if self.each:
                about = f"{result['workload']}, {about}"
            elif len(deciding) > 1:
                about += f", {setting(result)}"
            verdict = "reached" if met else "**missed**"
            if self.size and self.size != result["rows"]:
                verdict = f"not measured at {self.size:,}"
            yield [self.what, bound, value, verdict, about]


def setting(result: Result) -> str:
    """What sets a file apart from others of as many rows."""
    if "workload" not in result:
        return "while it grew"
    beside = any(found.get("hnsw_settings") for found in result["questions"])
    return "beside HNSW" if beside else "alone"


def figure(
    k: int | None, radius: int | None, read: Callable[[dict[str, Result]], float | None]
) -> Callable[[Result], float | None]:
    """A figure of one question, from its peers by name."""

    def value(result: Result) -> float | None:
        for found in result["questions"]:
            if (found["k"], found["radius"]) == (k, radius) and "peers" in found:
                return read({peer["name"]: peer for peer in found["peers"]} | {"": found})
            if (found["k"], found["radius"]) == (k, radius) and "ours" in found:
                return read(by_growth(found))
        return None

    return value


def by_growth(found: Result) -> dict[str, Result]:
    """A question of the study of growth, in the form of the others."""
    ours = found["ours"]["milliseconds"]
    return {
        "": found,
        "retrieval-db": {"milliseconds_p95_over_p50": ours["p95"] / ours["p50"]},
        "scan": {"milliseconds_over_ours": found["scan_over_ours_milliseconds"]},
    }


def over_ours(name: str) -> Callable[[dict[str, Result]], float | None]:
    """A peer's p50 as a multiple of ours."""

    def value(by_name: dict[str, Result]) -> float | None:
        found: float | None = by_name.get(name, {}).get("milliseconds_over_ours", {}).get("p50")
        return found

    return value


def whole_hnsw(by_name: dict[str, Result]) -> float | None:
    """HNSW's p50 as a multiple of ours, at the first setting that missed nothing, or the last."""
    steps = by_name[""].get("hnsw_settings") or [{"ef": None}]
    ef = by_name[""].get("hnsw_first_ef_with_recall_1") or steps[-1]["ef"]
    return over_ours(f"pgvector HNSW, ef {ef}")(by_name)


def spread(by_name: dict[str, Result]) -> float | None:
    found: float = by_name["retrieval-db"]["milliseconds_p95_over_p50"]
    return found


def compact_bytes(result: Result) -> float | None:
    sizes = {
        width["bits"]: float(width["compact"]["bucket_index_bytes_per_row"])
        for width in result["widths"]
    }
    return sizes.get(128)


# With HNSW's index beside ours, without it, and in the study of growth.
CLUSTERED = ("search-clustered-*", "search-hnsw-clustered-*", "growth-*")
FLAT = "FAISS IndexBinaryFlat"
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
        "clustered, k = 10: HNSW at recall 1, or as near as it comes, over ours",
        "search-hnsw-clustered-*",
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
