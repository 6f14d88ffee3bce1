"""The tables of docs/training.md that look into a question: see `benchmarks.training_tables`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from statistics import mean

from benchmarks.pages import Result, commits, heading, share, spread, table

KINDS = {"own": "of its own", "nested": "nested", "prefix": "prefix of 64"}


def inversion(result: Result) -> Iterator[str]:
    """A probe: each method as usual, with more epochs, with classes of one size."""
    yield from heading(result, f"Behind on the clothing photos, probed: {result['data']}")
    sizes = sorted(result["images"].values())
    yield (
        f"{sum(sizes):,} photos, {sizes[0]} to {sizes[-1]} of a class, learnt from; "
        f"{result['held_out']} held out. Means of {len(result['lines'][0]['map_train'])} seeds, "
        f"{result['recipe']['bits'][0]} bits:"
    )
    yield ""
    head = [
        "method",
        "",
        "mAP, training photos",
        "mAP, held out (± half of the range)",
        "three smallest classes",
        "bits off the class's code, training",
        "held out",
        "nearest two classes, bits",
    ]
    yield from table(
        head,
        [
            [
                line["method"],
                line["name"],
                share(mean(line["map_train"])),
                spread(line["map_held_out"]),
                share(mean(line["map_held_out_small_classes"])),
                f"{mean(line['bits_off_train']):.1f}",
                f"{mean(line['bits_off_held_out']):.1f}",
                f"{mean(line['nearest_classes']):.0f}",
            ]
            for line in result["lines"]
        ],
    )
    yield from _explained(result)
    yield f"Commit {result['commit']}."
    yield ""


def _explained(result: Result) -> Iterator[str]:
    """The probe in words, with its figures."""
    found = {(line["method"], line["name"]): line for line in result["lines"]}

    def of(field: str, method: str, name: str = "usual") -> float:
        return float(mean(found[method, name][field]))

    def gain(method: str, name: str = "four times the epochs") -> str:
        held = "map_held_out"
        return share(of(held, method, name) - of(held, method))

    small, off, more = "map_held_out_small_classes", "bits_off_train", "margin 0.5"
    bits, least = result["recipe"]["bits"][0], min(result["images"].values())
    yield (
        "Neither loss has done its work when the recipe ends: four times the epochs add "
        f"{gain('orthohash')} to `orthohash` and {gain('dch')} to `dch`, {gain('csq')} to `csq`. "
        "What is left of `orthohash` is that it asks for a direction, not for bits, and is content "
        f"when the true class leads by the margin: of the {bits} bits of a training photo "
        f"{of(off, 'orthohash'):.1f} differ from its class's code, {of(off, 'csq'):.1f} with `csq` "
        f"that learns every bit; a margin of 0.5 leaves {of(off, 'orthohash', more):.1f} and adds "
        f"{gain('orthohash', more)}. `dch` sees too few pairs of the small classes: their mAP is "
        f"{share(of(small, 'dch'))} (`csq` {share(of(small, 'csq'))}), and "
        f"{share(of(small, 'dch', 'balanced classes'))} (`csq` "
        f"{share(of(small, 'csq', 'balanced classes'))}) where every class has {least} photos."
    )
    yield ""
    held, often = "map_held_out", "four times the epochs"
    yield (
        f"`itq_cca` ({share(of(held, 'itq_cca'))}) solves for its linear layer; `csq` and "
        "`hashnet` descend to one of the same form, and with four times the epochs they reach "
        f"{share(of(held, 'csq', often))} and {share(of(held, 'hashnet', often))}. `ksh` reaches "
        f"{share(of(held, 'ksh'))} with the 300 anchors of its paper and 2,000 photos, as many of "
        f"each class as can be, and {share(of(held, 'ksh', '1,000 anchors'))} with 1,000 anchors; "
        f"with all photos, which leave the classes as unequal as they are, "
        f"{share(of(held, 'ksh', 'all photos'))} and "
        f"{share(of(held, 'ksh', 'all photos, 1,000 anchors'))}."
    )
    yield ""


def nested(result: Result) -> Iterator[str]:
    """What a prefix is worth: of an ordinary and of a nested code, beside a code of its own."""
    yield from heading(
        result, f"Nested codes: {result['data']}, {result['protocol']}, {result['features']}"
    )
    methods: dict[str, list[Result]] = defaultdict(list)
    for line in result["lines"]:
        methods[line["method"]].append(line["map"])
    kinds = [("own", "16"), ("nested", "16"), ("prefix", "16")]
    kinds += [("own", "32"), ("nested", "32"), ("prefix", "32"), ("own", "64"), ("nested", "64")]
    rows: list[list[object]] = []
    for name, lines in methods.items():
        rows.append(
            [
                name,
                *(spread([line[kind][bits] for line in lines]) for kind, bits in kinds),
                len(lines),
            ]
        )
        if "blocks" in lines[0]:
            found = [
                spread([line["blocks"][bits] for line in lines]) if kind == "nested" else ""
                for kind, bits in kinds
            ]
            rows.append([f"{name}, block by block", *found, len(lines)])
    yield from table(
        ["mAP", *(f"{bits} bits {KINDS[kind]}" for kind, bits in kinds), "seeds"], rows
    )
    recalls = [line["recall"] for line in result["lines"] if "recall" in line]
    if recalls:
        asked = result["recall"]
        rows = []
        for bits in ("16", "32", "64"):
            each = [
                spread([one[kind][bits] for one in recalls]) if bits in recalls[0][kind] else ""
                for kind in ("own", "nested", "prefix", "blocks")
            ]
            rows.append([f"{bits} bits", *each])
        yield (
            f"Without labels, `itq`: the share of the {asked['nearest']} nearest by cosine that "
            f"the {asked['pool']} nearest codes hold:"
        )
        yield ""
        yield from table(["", "of its own", "nested", "prefix of 64", "block by block"], rows)
    yield commits(result)
    yield ""


def nested_search(result: Result) -> Iterator[str]:
    """Buckets, candidates and times of ordinary and nested codes in PostgreSQL."""
    yield from heading(result, f"Nested codes searched: {result['data']}, {result['rows']:,} rows")
    yield (
        f"Nearest {result['k']} of {result['queries']} test images. Buckets are the rows that "
        "share 16 bits: the first 16, and the others on the mean."
    )
    yield ""
    yield from table(
        [
            "codes",
            "distinct",
            "first 16 bits: distinct",
            "largest bucket",
            "rows in a query's bucket",
            "in its other buckets",
            "scans",
            "candidates",
            "distance of the tenth",
            "ms",
            "p95",
        ],
        [
            [
                f"{line['method']}, {line['bits']} bits, {KINDS[line['kind']]}",
                line["distinct"],
                line["first_chunk_distinct"],
                line["first_chunk_largest"],
                line["first_chunk_met"],
                line["other_chunks_met"],
                f"{line['scanned']:.0%}",
                round(line["candidates_median"]),
                f"{line['distance_of_the_tenth']:.1f}",
                f"{line['milliseconds_median']:.1f}",
                f"{line['milliseconds_p95']:.1f}",
            ]
            for line in result["lines"]
        ],
    )
    yield f"Commit {result['commit']}."
    yield ""
