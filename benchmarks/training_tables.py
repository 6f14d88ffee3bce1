"""The tables of docs/training.md, from the methods themselves and from the result files.

    python -m benchmarks.training_tables

What stands between its markers is written anew. A study that has not been run has no table.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping
from statistics import mean
from typing import Any

from benchmarks import probe_tables
from benchmarks.pages import (
    Result,
    commits,
    heading,
    replaced,
    rewrite,
    share,
    spread,
    table,
)
from benchmarks.study import RESULTS, ROOT
from retrieval_db.encoder.hashing.methods import METHODS, Method
from retrieval_db.encoder.networks import cifar

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


def methods_part() -> Iterator[str]:
    """Every method with its source and what can be set."""
    yield "| method | what it does | learns from | source | `--set` (default at 48 bits; range) |"
    yield "|---|---|---|---|---|"
    for method in METHODS.values():
        options = "; ".join(
            f"`{name}` {option.help} ({option.default(48):g}; {option.range})"
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
        "inversion": probe_tables.inversion,
        "nested-[!s]*": probe_tables.nested,
        "nested-search": probe_tables.nested_search,
    }
    for pattern, part in parts.items():
        for file in sorted(RESULTS.glob(f"{pattern}.json")):
            yield from part(json.loads(file.read_text()))


def _cifar10() -> Iterator[str]:
    """Networks trained end to end: a line for each run."""
    # 65 pixels before 129.
    files = sorted(
        RESULTS.glob("cifar10-*.json"),
        key=lambda path: [int(n) if n.isdigit() else n for n in re.split(r"(\d+)", path.name)],
    )
    runs = [json.loads(path.read_text()) for path in files]
    for protocol in sorted({run["protocol"] for run in runs}):
        these = [run for run in runs if run["protocol"] == protocol]
        bits = sorted({line["bits"] for run in these for line in run["widths"]})
        yield f"### CIFAR-10 (JPEG copy), the whole network trained: {protocol}"
        yield ""
        head = ["network, method, seed", "epochs", "softmax", *(f"{n} bits" for n in bits)]
        rows: list[list[object]] = []
        for run in these:
            found = {line["bits"]: line["map"] for line in run["widths"]}
            rows.append(
                [
                    *_trained(run),
                    share(run["softmax"]["accuracy"]) if "softmax" in run else "",
                    *(share(found[n]) if n in found else "" for n in bits),
                ]
            )
            for name, values in _beside(run).items():
                rows.append([f"… {name}", "", "", *(share(values[n]) for n in bits)])
        yield from table(head, rows)
        for run in these:
            before = "".join(f", after `{body['command']}`" for body in _bodies(run))
            seconds = f"{run['training_seconds']:,.0f} s of training"
            yield f"- {_source(run)}, {run['device']}, {seconds}{before}"
        yield ""


def _trained(run: Result) -> tuple[str, str]:
    """How a network and its heads were trained, and the epochs of each stage."""
    method, seed = run["recipe"]["method"], run["recipe"]["seed"]
    size = run.get("input_size", cifar.SIZE)
    network = run["network"] + (f" at {size} pixels" if size != cifar.SIZE else "")
    network += " with flip" if run.get("flip") else ""
    if "body" in run and not run.get("whole"):
        network += f" of {run['body']['method']}"
        method = f"heads of {method}"
    stages = [run["recipe"]["epochs"], *(body["epochs"] for body in _bodies(run))]
    return f"{network}, {method}, {seed}", " + ".join(map(str, reversed(stages)))


def _bodies(run: Result) -> Iterator[Result]:
    """The trainings that a network has behind it, the last first."""
    while "body" in run:
        run = run["body"]
        yield run


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
    ]
    last = recipe["bits"][-1]
    yield from table(
        head,
        [
            [
                name,
                *(spread(_at(lines, n)) for n in recipe["bits"]),
                spread([line["softmax_map"] for line in lines]),
                len(lines),
            ]
            for name, lines in sorted(methods.items(), key=lambda item: -mean(_at(item[1], last)))
        ],
    )
    yield commits(result)
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
        row: list[object]
        # The classes are drawn with the seed: what a code loses or gains is seen seed by seed.
        cosine = {} if supervised else _centred_cosine(base)
        if cosine:
            head.append(f"{bits[-1]} bits less centred cosine")
        for name in sorted({name for line in base for name in line["map"]}):
            seeds = [line["map"][name] for line in base]
            row = [f"{name} (floats)", *[""] * (len(bits) - 1), spread(seeds), len(seeds)]
            rows.append([*row, *[""] * bool(cosine)])
        softmax = [
            line["softmax mAP"]
            for lines in methods.values()
            for line in lines
            if supervised and "softmax mAP" in line
        ]
        if softmax:
            rows.append(["predicted label (softmax)", *[""] * (len(bits) - 1), spread(softmax), ""])
        ranked = sorted(methods.items(), key=lambda item: -mean(_at(item[1], bits[-1])))
        for name, lines in ranked:
            row = [name, *(spread(_at(lines, n)) for n in bits), len(lines)]
            gaps = [
                line["map"][str(bits[-1])] - cosine[line["seed"]]
                for line in lines
                if line["seed"] in cosine
            ]
            rows.append([*row, spread(gaps)] if gaps else row)
        yield from table(head, rows)
        yield commits(result)
        yield ""


def _centred_cosine(base: list[Result]) -> dict[int, float]:
    """By seed, where it was measured."""
    name = "cosine, centred"
    return {line["seed"]: line["map"][name] for line in base if name in line["map"]}


def _clothing(result: Result) -> Iterator[str]:
    yield from heading(result, f"{result['data']}: {result['features']}")
    ranked = sorted(result["lines"], key=lambda line: -mean(line["map"]))
    yield from table(
        ["", "mAP (± half of the range)", "seeds"],
        [[line["name"], spread(line["map"]), len(line["map"])] for line in ranked],
    )
    yield f"Commit {result['commit']}."
    yield ""


def _at(lines: list[Result], bits: int) -> list[float]:
    return [line["map"][str(bits)] for line in lines]


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
