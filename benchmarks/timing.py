"""Times of calls, in milliseconds: wall time, and the processor time of who did the work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

ROUNDS = 5


def processor_milliseconds(pid: int) -> float:
    """Processor time that a local process has had; 0 where the system does not tell.

    On a machine shared with others it says more than wall time: waiting does not count.
    """
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text().split()[0]) / 1e6
    except OSError:
        return 0.0


def private_memory_mib(pid: int) -> float | None:
    """Memory of a local process that it shares with no other; None where nobody tells."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return None
    own = [line for line in status.splitlines() if line.startswith("RssAnon:")]
    return round(int(own[0].split()[1]) / 1024, 1) if own else None


def percentiles(times: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99."""
    return {f"p{p}": round(float(np.percentile(times, p)), 3) for p in (50, 95, 99)}


def in_rounds(queries: int, chosen: int) -> list[list[int]]:
    """So many of the queries, evenly spread, in five parts.

    Peers that take turns by parts each have the processor's caches as they would have them alone,
    and share the machine's noise.
    """
    spread = range(0, queries, queries // chosen)[:chosen]
    return [part.tolist() for part in np.array_split(spread, ROUNDS)]


def timed(call: Callable[..., Any], *given: Any) -> tuple[float, Any]:
    """Milliseconds of one call, and what it returned."""
    started = time.perf_counter()
    value = call(*given)
    return (time.perf_counter() - started) * 1000, value


@dataclass
class Times:
    """Of many calls.

    Attributes:
        wall: milliseconds of each call, as the caller saw it.
        processor: milliseconds that the worker's processor had for it.
    """

    wall: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.wall)

    def take(self, call: Callable[..., Any], *given: Any, clock: Callable[[], float]) -> Any:
        """Make a call and keep its times; `clock` reads the worker's processor time."""
        before = clock()
        elapsed, value = timed(call, *given)
        self.processor.append(clock() - before)
        self.wall.append(elapsed)
        return value

    def figures(self) -> dict[str, Any]:
        """For a result file."""
        figures: dict[str, Any] = {"queries": len(self), "milliseconds": percentiles(self.wall)}
        if any(self.processor):
            figures["processor_milliseconds"] = percentiles(self.processor)
        return figures


def ratio(over: float, under: float) -> float | None:
    """A quotient to three significant digits; None where there is nothing to divide by."""
    return float(f"{over / under:.3g}") if under else None
