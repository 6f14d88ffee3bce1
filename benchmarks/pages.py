"""Pages of docs/ whose tables are written from the result files, between two markers."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

from benchmarks.study import RESULTS, ROOT

END = "<!-- end of what it writes -->"

Result = dict[str, Any]


def replaced(page: str, lines: Iterable[str], begin: str, end: str = END) -> str:
    """The page with these lines between its markers."""
    before, there, rest = page.partition(begin)
    _, ending, after = rest.partition(end)
    if not (there and ending):
        sys.exit(f"The page has not both markers:\n{begin}\n{end}")
    body = "\n".join(lines).rstrip()
    return f"{before}{begin}\n\n{body}\n\n{end}{after}"


def rewrite(path: Path, written: Callable[[str], str]) -> None:
    """Write a page anew."""
    path.write_text(written(path.read_text(encoding="utf-8")), encoding="utf-8")
    print(f"Wrote {path.relative_to(ROOT)}", file=sys.stderr)


def results(*names: str) -> list[Result]:
    """The result files of some name patterns, smallest table first."""
    paths = [path for name in names for path in RESULTS.glob(f"{name}.json")]
    found = [json.loads(path.read_text()) for path in paths]
    return sorted(found, key=lambda result: (result.get("workload", ""), result.get("rows", 0)))


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


def share(value: float) -> str:
    """A figure between −1 and 1 with four places."""
    sign = "−" if value <= -5e-5 else ""
    return sign + f"{abs(value):.4f}".removeprefix("0")


def spread(values: Sequence[float]) -> str:
    """The mean of such figures, and half of their range."""
    half = f" ± {share((max(values) - min(values)) / 2)}" if len(values) > 1 else ""
    return f"{share(mean(values))}{half}"


def commits(result: Result) -> str:
    """Which commits the lines of a result file were measured at."""
    found = sorted({line["commit"] for line in result["lines"]})
    return f"{'Commits' if len(found) > 1 else 'Commit'} {', '.join(found)}."


def heading(result: Result, title: str, *others: Result) -> list[str]:
    """A title, with the command, the day and the machine; each where results have several."""
    origins = dict.fromkeys(map(_origin, (result, *others)))
    return [f"### {title}", "", "\\\n".join(origins), ""]


def _origin(result: Result) -> str:
    machine = result["machine"]
    versions = [f"{name} {found}" for name, found in result.get("versions", {}).items()]
    if "postgresql" in result:
        versions.insert(0, f"PostgreSQL {result['postgresql']}")
    place = f"{machine['processor']}, {machine['cores']} cores, {machine['memory_gib']} GiB"
    # Lines of one table may have been measured by several commands; the file's own is the last.
    lines = result.get("lines", [])
    commands = dict.fromkeys(line["command"] for line in lines if "command" in line)
    told = ", ".join(f"`{command}`" for command in commands or [result["command"]])
    return f"{told}, {result['date']}; " + "; ".join([place, *versions])
