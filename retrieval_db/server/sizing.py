"""Settings of an embedded PostgreSQL, sized to the machine that it runs on."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

MB = 1 << 20
GB = 1 << 30


@dataclass(frozen=True)
class Machine:
    """What there is to share out.

    Args:
        memory: bytes of RAM that this process may use.
        cores: processor cores that this process may use.
        disk: free bytes where the data directory lies.
        shared_memory: free bytes for POSIX shared memory, None where there is no such limit.
    """

    memory: int
    cores: int
    disk: int
    shared_memory: int | None

    @classmethod
    def here(cls, folder: Path) -> Machine:
        """This machine, or the container that we are in; `folder` is on the disk of the data."""
        memory = psutil.virtual_memory().total
        for limit in (
            Path("/sys/fs/cgroup/memory.max"),
            Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        ):
            with contextlib.suppress(OSError, ValueError):  # absent, or "max"
                memory = min(memory, int(limit.read_text()))
        if sys.platform == "linux":
            cores = len(os.sched_getaffinity(0))
        else:
            cores = os.cpu_count() or 1
        shared = Path("/dev/shm")
        return cls(
            memory=memory,
            cores=cores,
            disk=shutil.disk_usage(folder).free,
            shared_memory=shutil.disk_usage(shared).free if shared.is_dir() else None,
        )


def settings(machine: Machine) -> dict[str, str]:
    """PostgreSQL's settings for a server that searches codes on this machine.

    Durability is not traded for speed: fsync, full_page_writes and synchronous_commit stay on.
    """
    memory, cores = machine.memory, machine.cores
    workers = min(cores - 1, 8)  # the leader works too
    return {
        "shared_buffers": _size(memory // 4, 32 * MB, 8 * GB),
        "effective_cache_size": _size(memory * 5 // 8, 64 * MB, None),
        "work_mem": _size(memory // 256, 4 * MB, 64 * MB),
        "maintenance_work_mem": _size(memory // 8, 64 * MB, 3 * GB),
        # Index builds and loads into new tables write no WAL; nobody replicates from here.
        "wal_level": "minimal",
        "max_wal_senders": "0",
        "max_wal_size": _size(machine.disk // 10, 256 * MB, 8 * GB),
        "min_wal_size": _size(machine.disk // 100, 80 * MB, 1 * GB),
        "checkpoint_timeout": "15min",
        "checkpoint_completion_target": "0.9",
        # These programs have pglz only, which takes longer than writing what it saves.
        "wal_compression": "off",
        "random_page_cost": "1.1",
        "jit": "off",
        "max_worker_processes": str(max(8, cores + 4)),
        "max_parallel_workers": str(cores),
        "max_parallel_workers_per_gather": str(workers),
        "max_parallel_maintenance_workers": str(workers),
        "huge_pages": "try",
        "dynamic_shared_memory_type": _shared_memory_type(machine),
    }


def _size(value: int, least: int, most: int | None) -> str:
    value = max(value, least)
    return f"{(min(value, most) if most else value) // MB}MB"


def _shared_memory_type(machine: Machine) -> str:
    """Where parallel workers meet.

    Containers often have 64 MB of /dev/shm, where a parallel hash join or a parallel build of an
    HNSW index fails with "No space left on device". System V segments are memory too, but are
    not counted there; where the kernel limits them as well, files in the data directory do it.
    """
    if machine.shared_memory is None or machine.shared_memory >= min(machine.memory // 4, 4 * GB):
        return "posix"
    with contextlib.suppress(OSError, ValueError):
        if int(Path("/proc/sys/kernel/shmmax").read_text()) >= machine.memory:
            return "sysv"
    return "mmap"


def text(values: Mapping[str, str], heading: str) -> str:
    """Settings as a configuration file of PostgreSQL."""
    comment = "".join(f"# {line}\n" for line in heading.splitlines())
    return comment + "".join(f"{name} = {quoted(value)}\n" for name, value in values.items())


def quoted(value: str) -> str:
    """A value as PostgreSQL's configuration files want it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"
