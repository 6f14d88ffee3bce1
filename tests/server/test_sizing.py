"""Sizes that follow the machine, and that PostgreSQL takes."""

from __future__ import annotations

import psycopg
import pytest

from retrieval_db.server import sizing
from tests.server.servers import MakeServer, ask

GB = 1 << 30


def machine(**changes: int | None) -> sizing.Machine:
    values: dict[str, int | None] = {
        "memory": 24 * GB,
        "cores": 8,
        "disk": 100 * GB,
        "shared_memory": 12 * GB,
    }
    return sizing.Machine(**(values | changes))  # type: ignore[arg-type]


def test_sizes_follow_the_machine() -> None:
    usual = sizing.settings(machine())
    assert usual["shared_buffers"] == f"{6 * 1024}MB"
    assert usual["maintenance_work_mem"] == f"{3 * 1024}MB"
    assert usual["max_wal_size"] == f"{8 * 1024}MB"
    assert usual["max_parallel_workers_per_gather"] == "7"
    assert sizing.settings(machine(memory=512 * GB))["shared_buffers"] == f"{8 * 1024}MB"
    one = sizing.settings(machine(cores=1))
    assert one["max_parallel_workers_per_gather"] == "0"


@pytest.mark.parametrize(
    "of",
    [
        machine(memory=GB // 4, cores=1, disk=0, shared_memory=64 << 20),
        machine(memory=64 * GB, cores=64, shared_memory=None),
    ],
    ids=["tiny", "large"],
)
def test_postgresql_takes_the_sizes(
    of: sizing.Machine, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing.Machine, "here", lambda folder: of)
    postgres = make_server()
    postgres.start()
    for name, value in sizing.settings(of).items():
        query = f"SELECT setting FROM pg_file_settings WHERE name = '{name}' AND applied"
        assert ask(postgres.url(), query) == value


@pytest.mark.parametrize("kind", ["posix", "sysv", "mmap"])
def test_parallel_workers_meet(
    kind: str, make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sizing, "_shared_memory_type", lambda machine: kind)
    monkeypatch.setattr(sizing.Machine, "here", lambda folder: machine(memory=GB, cores=3))
    postgres = make_server()
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE t WITH (parallel_workers = 2) AS SELECT i, "
            "ARRAY[i % 17, i % 13, i % 11]::vector(3) AS v FROM generate_series(1, 20000) i"
        )
        connection.execute("SET min_parallel_table_scan_size = 0")
        connection.execute("SET min_parallel_index_scan_size = 0")
        connection.execute("SET parallel_setup_cost = 0")
        connection.execute("SET parallel_tuple_cost = 0")
        connection.execute("SET client_min_messages = debug1")
        said: list[str] = []
        connection.add_notice_handler(lambda notice: said.append(str(notice.message_primary)))
        connection.execute("CREATE INDEX ON t (i)")
        connection.execute("CREATE INDEX ON t USING hnsw (v vector_l2_ops)")
        assert any("parallel" in message for message in said), said
        connection.execute("SET client_min_messages = notice")
        connection.execute("ANALYZE t")
        connection.execute("SET enable_mergejoin = off")
        connection.execute("SET enable_nestloop = off")
        query = "SELECT count(*) FROM t JOIN t AS u USING (i)"
        plan = connection.execute(f"EXPLAIN (ANALYZE, COSTS OFF) {query}").fetchall()
        assert any("Parallel Hash Join" in line for (line,) in plan), plan
        assert any("Workers Launched: 2" in line for (line,) in plan), plan


def test_little_shared_memory_is_not_relied_on() -> None:
    assert sizing.settings(machine())["dynamic_shared_memory_type"] == "posix"
    small = sizing.settings(machine(shared_memory=64 << 20))
    assert small["dynamic_shared_memory_type"] != "posix"
