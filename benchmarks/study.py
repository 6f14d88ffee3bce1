"""What every study needs: where the data are, and how a result file is written."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"


def data_dir() -> Path:
    """The folder of photos, codes and backbones (RETRIEVAL_DB_DATA, or ../shared/data)."""
    folder = Path(os.environ.get("RETRIEVAL_DB_DATA", ROOT.parent / "shared" / "data"))
    if not folder.is_dir():
        sys.exit(f"There is no folder {folder}; RETRIEVAL_DB_DATA names another.")
    return folder


def machine() -> dict[str, Any]:
    """The machine and the versions that a figure belongs to."""
    model = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        names = [line for line in cpuinfo.read_text().splitlines() if "model name" in line]
        model = names[0].partition(":")[2].strip() if names else model
    return {
        "processor": model,
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "numpy": version("numpy"),
        "psycopg": version("psycopg"),
    }


def versions(*packages: str) -> dict[str, str]:
    """The versions of packages that were measured."""
    return {package: version(package) for package in packages}


def command() -> str:
    """The command line of this program, without the places of this machine."""
    module = sys.modules["__main__"].__spec__
    given = iter(sys.argv[1:])
    kept = []
    for argument in given:
        if argument == "--database":
            next(given, None)
        elif not argument.startswith("--database="):
            place = "URL" if "://" in argument else "DIR" if Path(argument).is_absolute() else None
            kept.append(place or argument)
    return " ".join(["python -m", module.name if module else sys.argv[0], *kept])


def commit() -> str:
    """The commit of this checkout, short; `-dirty` where files were changed since."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def pretty(value: Any, indent: int = 0) -> str:
    """JSON in which whatever fits into a line stands in one."""
    flat = json.dumps(value, ensure_ascii=False)
    if len(flat) + indent <= 100 or not isinstance(value, (dict, list)):
        return flat
    if isinstance(value, dict):
        parts = [
            f"{json.dumps(str(key))}: {pretty(each, indent + 2)}" for key, each in value.items()
        ]
    else:
        parts = [pretty(each, indent + 2) for each in value]
    space = " " * indent
    inner = ",\n".join(f"{space}  {part}" for part in parts)
    first, last = "{}" if isinstance(value, dict) else "[]"
    return f"{first}\n{inner}\n{space}{last}"


def write(name: str, command: str, figures: dict[str, Any]) -> Path:
    """Write `results/NAME.json`: the figures with the machine, the versions and the command."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    content = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "machine": machine(),
        **figures,
    }
    path.write_text(pretty(content) + "\n")
    print(f"Wrote {path.relative_to(ROOT)}", file=sys.stderr)
    return path


class Ledger:
    """A result file of lines, written anew with each: an interrupted study goes on.

    Args:
        name: of the file, `results/NAME.json`.
        key: the fields by which a line is known.
        about: what all lines have in common.

    Attributes:
        lines: those of earlier runs, and those added.
    """

    def __init__(self, name: str, key: tuple[str, ...], about: dict[str, Any]) -> None:
        self.name, self.key, self.about = name, key, about
        # At the start: a file that changes while the study runs does not belong to it.
        self.origin = {"commit": commit(), "command": command()}
        path = RESULTS / f"{name}.json"
        self.lines: list[dict[str, Any]] = []
        if path.exists():
            content = json.loads(path.read_text())
            changed = [field for field in about if content.get(field) != about[field]]
            if changed:
                sys.exit(f"{path.name} was measured with another {', '.join(changed)}: delete it.")
            self.lines = content["lines"]

    def has(self, *key: Any) -> bool:
        """Whether there is a line of this key."""
        return any(tuple(line.get(field) for field in self.key) == key for line in self.lines)

    def add(self, **line: Any) -> None:
        """Add a line, and write the file."""
        self.lines.append({**line, **self.origin})
        print(line, flush=True)
        write(self.name, self.origin["command"], {**self.about, "lines": self.lines})
