"""The tables of docs/training.md, from the methods themselves and from the result files.

    python -m benchmarks.training_tables

What stands between its markers is written anew. A study that has not been run has no table.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from benchmarks.pages import Result, heading, replaced, rewrite, table
from benchmarks.study import RESULTS, ROOT
from retrieval_db.encoder.methods import METHODS, Method

PAGE = ROOT / "docs" / "training.md"
BEGIN = "<!-- {}: written by python -m benchmarks.training_tables -->"
END = "<!-- end of {} -->"

# How the result files of each study begin.
STUDIES = {
    "cifar10": "cifar10",
    "end-to-end": "end_to_end",
    "frozen": "frozen",
    "clothing": "clothing_supervised",
    "inversion": "inversion",
    "nested": "nested",
}


_KINDS = {"own": "of its own", "nested": "nested", "prefix": "prefix of 64"}


def methods_part() -> Iterator[str]:
    """Every method with its source and what can be set."""
    yield "| method | what it does | learns from | source | `--set` (default at 48 bits) |"
    yield "|---|---|---|---|---|"
    for method in METHODS.values():
        options = "; ".join(
            f"`{name}` {option.help} ({option.default(48):g})"
            for name, option in method.options.items()
        )
        summary = method.summary.replace("|", "\\|")
        yield f"| `{method.name}` | {summary} | {_learns(method)} | {method.source} | {options} |"
    yield ""


def _learns(method: Method) -> str:
    if method.trained:
        return "labels; whole network or frozen features"
    if method.fit_labels is not None:
        return "labels; frozen features"
    return "images; frozen features" if method.fit is not None else "nothing"


def results_part() -> Iterator[str]:
    """A table for each study that has been run; else how to run them."""
    if not [file for name in STUDIES for file in RESULTS.glob(f"{name}*.json")]:
        commands = ", ".join(f"`python -m benchmarks.{name}`" for name in STUDIES.values())
        yield f"Not measured yet. The studies are {commands}."
        yield ""
    yield from _cifar10()
    parts = {
        "end-to-end-*": _end_to_end,
        "frozen-*": _frozen,
        "clothing-*": _clothing,
        "inversion": _inversion,
        "nested-[!s]*": _nested,
        "nested-search": _nested_search,
    }
    for pattern, part in parts.items():
        for file in sorted(RESULTS.glob(f"{pattern}.json")):
            yield from part(json.loads(file.read_text()))


def _cifar10() -> Iterator[str]:
    """Networks trained end to end: a line for each run."""
    runs = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("cifar10-*.json"))]
    for protocol in sorted({run["protocol"] for run in runs}):
        these = [run for run in runs if run["protocol"] == protocol]
        bits = sorted({line["bits"] for run in these for line in run["widths"]})
        yield f"### CIFAR-10 (JPEG copy), the whole network trained: {protocol}"
        yield ""
        head = ["network, method, seed", "epochs", "softmax", *(f"{n} bits" for n in bits)]
        rows: list[list[object]] = []
        for run in these:
            recipe = run["recipe"]
            found = {line["bits"]: line["map"] for line in run["widths"]}
            rows.append(
                [
                    f"{run['network']}, {recipe['method']}, {recipe['seed']}",
                    recipe["epochs"],
                    _share(run["softmax"]["accuracy"]) if "softmax" in run else "",
                    *(_share(found[n]) if n in found else "" for n in bits),
                ]
            )
            for name, values in _beside(run).items():
                rows.append([f"… {name}", "", "", *(_share(values[n]) for n in bits)])
        yield from table(head, rows)
        for run in these:
            yield f"- {_source(run)}, {run['device']}, {run['training_seconds']:,.0f} s of training"
        yield ""


def _beside(run: Result) -> dict[str, dict[int, float]]:
    """What was measured on the same network's features."""
    found: dict[str, dict[int, float]] = {}
    if "cosine" in run:
        found["cosine of its features (floats)"] = {
            line["bits"]: run["cosine"] for line in run["widths"]
        }
    if all("itq" in line for line in run["widths"]):
        found["itq of its features"] = {line["bits"]: line["itq"] for line in run["widths"]}
    return found


def _end_to_end(result: Result) -> Iterator[str]:
    """The deep methods with the same network and budget: mean and spread over the seeds."""
    recipe = result["recipe"]
    methods: dict[str, list[Result]] = defaultdict(list)
    for line in result["lines"]:
        methods[line["method"]].append(line)
    yield from heading(
        result, f"{result['data']}, the whole network trained: {result['protocol']}, all methods"
    )
    yield (
        f"Network `{result['network']}` from nothing, {result['device']}; for every method "
        f"{recipe['epochs']} epochs of the 5,000 training images, {recipe['optimizer']}, rate "
        f"{recipe['learning_rate']:g}, batches of {recipe['batch_size']}, the heads of all widths "
        "on one network. mAP of the whole ranking (± half of the range over the seeds):"
    )
    yield ""
    head = [
        "method",
        *(f"{n} bits" for n in recipe["bits"]),
        "predicted label (softmax)",
        "seeds",
        "s of training",
    ]
    last = recipe["bits"][-1]
    yield from table(
        head,
        [
            [
                name,
                *(_spread(_at(lines, n)) for n in recipe["bits"]),
                _spread([line["softmax_map"] for line in lines]),
                len(lines),
                f"{mean(line['training_seconds'] for line in lines):.0f}",
            ]
            for name, lines in sorted(methods.items(), key=lambda item: -mean(_at(item[1], last)))
        ],
    )
    yield _commits(result)
    yield ""


def _frozen(result: Result) -> Iterator[str]:
    """All methods on the same features: mean and spread over the seeds."""
    yield from heading(result, f"{result['data']}: {result['features']}")
    grouped: dict[str, dict[str, list[Result]]] = defaultdict(lambda: defaultdict(list))
    for line in result["lines"]:
        grouped[line["protocol"]][line["method"]].append(line)
    for protocol, methods in grouped.items():
        base = methods.pop("baselines", [])
        supervised = protocol == "cvprw15"
        bits = sorted({int(n) for lines in methods.values() for one in lines for n in one["map"]})
        yield f"Protocol `{protocol}`, mAP (± half of the range over the seeds):"
        yield ""
        head = ["method", *(f"{n} bits" for n in bits), "seeds"]
        rows: list[list[object]] = []
        for name in sorted({name for line in base for name in line["map"]}):
            seeds = [line["map"][name] for line in base]
            rows.append([f"{name} (floats)", *[""] * (len(bits) - 1), _spread(seeds), len(seeds)])
        softmax = [
            line["softmax mAP"]
            for lines in methods.values()
            for line in lines
            if supervised and "softmax mAP" in line
        ]
        if softmax:
            rows.append(
                ["predicted label (softmax)", *[""] * (len(bits) - 1), _spread(softmax), ""]
            )
        ranked = sorted(methods.items(), key=lambda item: -mean(_at(item[1], bits[-1])))
        for name, lines in ranked:
            rows.append([name, *(_spread(_at(lines, n)) for n in bits), len(lines)])
        yield from table(head, rows)
        yield _commits(result)
        yield ""


def _clothing(result: Result) -> Iterator[str]:
    yield from heading(result, f"{result['data']}: {result['features']}")
    ranked = sorted(result["lines"], key=lambda line: -mean(line["map"]))
    yield from table(
        ["", "mAP (± half of the range)", "seeds"],
        [[line["name"], _spread(line["map"]), len(line["map"])] for line in ranked],
    )
    yield f"Commit {result['commit']}."
    yield ""


def _inversion(result: Result) -> Iterator[str]:
    """A probe: each method as usual, with more epochs, with classes of one size."""
    yield from heading(result, f"Behind on the clothing photos, probed: {result['data']}")
    sizes = sorted(result["images"].values())
    yield (
        f"{sum(sizes):,} photos, {sizes[0]} to {sizes[-1]} of a class, learnt from; "
        f"{result['held_out']} held out. Means of {len(result['lines'][0]['loss'])} seeds, "
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
                _share(mean(line["map_train"])),
                _spread(line["map_held_out"]),
                _share(mean(line["map_held_out_small_classes"])),
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
        return mean(found[method, name][field])

    def gain(method: str, name: str = "four times the epochs") -> str:
        held = "map_held_out"
        return _share(of(held, method, name) - of(held, method))

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
        f"{_share(of(small, 'dch'))} (`csq` {_share(of(small, 'csq'))}), and "
        f"{_share(of(small, 'dch', 'balanced classes'))} (`csq` "
        f"{_share(of(small, 'csq', 'balanced classes'))}) where every class has {least} photos."
    )
    yield ""


def _nested(result: Result) -> Iterator[str]:
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
                *(_spread([line[kind][bits] for line in lines]) for kind, bits in kinds),
                len(lines),
            ]
        )
        if "blocks" in lines[0]:
            found = [
                _spread([line["blocks"][bits] for line in lines]) if kind == "nested" else ""
                for kind, bits in kinds
            ]
            rows.append([f"{name}, block by block", *found, len(lines)])
    yield from table(
        ["mAP", *(f"{bits} bits {_KINDS[kind]}" for kind, bits in kinds), "seeds"], rows
    )
    recalls = [line["recall"] for line in result["lines"] if "recall" in line]
    if recalls:
        share = result["recall"]
        rows = []
        for bits in ("16", "32", "64"):
            each = [
                _spread([one[kind][bits] for one in recalls]) if bits in recalls[0][kind] else ""
                for kind in ("own", "nested", "prefix", "blocks")
            ]
            rows.append([f"{bits} bits", *each])
        yield (
            f"Without labels, `itq`: the share of the {share['nearest']} nearest by cosine that "
            f"the {share['pool']} nearest codes hold:"
        )
        yield ""
        yield from table(["", "of its own", "nested", "prefix of 64", "block by block"], rows)
    yield _commits(result)
    yield ""


def _nested_search(result: Result) -> Iterator[str]:
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
            "candidates",
            "distance of the tenth",
            "ms",
            "p95",
        ],
        [
            [
                f"{line['method']}, {line['bits']} bits, {_KINDS[line['kind']]}",
                line["distinct"],
                line["first_chunk_distinct"],
                line["first_chunk_largest"],
                line["first_chunk_met"],
                line["other_chunks_met"],
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


def _commits(result: Result) -> str:
    found = sorted({line["commit"] for line in result["lines"]})
    return f"{'Commits' if len(found) > 1 else 'Commit'} {', '.join(found)}."


def _at(lines: list[Result], bits: int) -> list[float]:
    return [line["map"][str(bits)] for line in lines]


def _share(value: float) -> str:
    return f"{value:.4f}".removeprefix("0")


def _spread(values: list[float]) -> str:
    """The mean, and half of the range."""
    spread = f" ± {_share((max(values) - min(values)) / 2)}" if len(values) > 1 else ""
    return f"{_share(mean(values))}{spread}"


def _source(run: Mapping[str, Any]) -> str:
    machine = run["machine"]
    return (
        f"`{run['command']}`, commit {run['commit']}, {run['date']}; {machine['processor']}, "
        f"{machine['cores']} cores"
    )


PARTS = {"methods": methods_part, "results": results_part}


def written(page: str) -> str:
    """The page with its tables as they are now."""
    for name, part in PARTS.items():
        page = replaced(page, part(), BEGIN.format(name), END.format(name))
    return page


if __name__ == "__main__":
    rewrite(PAGE, written)
