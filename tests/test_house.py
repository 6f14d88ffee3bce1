"""Who may import whom, and when; and what the package shows to the outside."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import retrieval_db
from tests.conftest import ROOT

# Rooms that are linked into the package; everything else in it is the core.
LINKED = ("encoder", "console", "demo", "migrations", "cli")
TORCH = {"torch", "torchcodec", "torchvision", "safetensors", "sklearn"}

# The rooms of the core, from the ground up: each imports only from the floors below its own.
FLOORS = (
    {"errors", "jsonb", "sql", "texts"},
    {"arguments", "codes", "photos", "server"},
    {"database", "interchange", "schema"},
    {"encoders", "migration"},
    {"duplicates", "info", "layouts", "legacy", "search"},
    {"evaluation", "loading"},
    {"exporting", "pipeline", "presentation"},
    {"client"},
)

# The same for the rooms of the encoders.
ENCODER_FLOORS = (
    {"checkpoint", "files", "names"},
    {"hashing", "networks", "datasets"},
    {"devices", "reading"},
    {"network", "phash"},
    {"features", "memory"},
    {"outputs", "training"},
)


def place_of(file: Path) -> str:
    return str(file.relative_to(ROOT))


def modules(room: str) -> list[Path]:
    """The files of a room; `retrieval_db` without the rooms that are linked into it.

    `python -m retrieval_db` is the command line's other door.
    """
    if room == "cli":
        return [ROOT / "cli.py", ROOT / "retrieval_db" / "__main__.py"]
    files = sorted((ROOT / room).rglob("*.py"))
    if room != "retrieval_db":
        return files
    return [
        file
        for file in files
        if file.relative_to(ROOT / room).parts[0].removesuffix(".py") not in (*LINKED, "__main__")
    ]


def imports(file: Path) -> Iterator[str]:
    """Everything that a file imports, anywhere in it, by its absolute name."""
    # Relative to where it is imported from: encoder/ is retrieval_db.encoder.
    place = file.relative_to(ROOT).with_suffix("").parts
    if place[0] != "retrieval_db":
        place = ("retrieval_db", *place)
    package = place[:-1]
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *([node.module] if node.module else [])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def rooms_of(file: Path) -> set[str]:
    """The rooms of this project that a file imports from: `retrieval_db.codes`, `encoder`."""
    found = set()
    for name in imports(file):
        parts = name.split(".")
        if parts[0] == "retrieval_db" and len(parts) > 1:
            found.add(parts[1] if parts[1] in LINKED else ".".join(parts[:2]))
    return found


def packages_of(file: Path) -> set[str]:
    return {name.partition(".")[0] for name in imports(file)}


@pytest.mark.parametrize("file", modules("retrieval_db"), ids=place_of)
def test_the_core_knows_no_torch_and_no_other_room(file: Path) -> None:
    assert not packages_of(file) & TORCH
    assert not rooms_of(file) & set(LINKED)
    assert not packages_of(file) & {*LINKED, "tests", "benchmarks"}


def room_of(file: Path, house: str) -> str:
    return file.relative_to(ROOT / house).parts[0].removesuffix(".py")


def neighbours_of(file: Path, house: str) -> set[str]:
    """The rooms of its own house that a file imports from, its own left out."""
    base = "retrieval_db." if house == "retrieval_db" else f"retrieval_db.{house}."
    named = [name.removeprefix(base) for name in imports(file) if name.startswith(base)]
    found = {name.partition(".")[0] for name in named}
    return found & rooms(house) - {room_of(file, house)}


def rooms(house: str) -> set[str]:
    return {room_of(file, house) for file in modules(house)} - {"__init__"}


@pytest.mark.parametrize(
    ("house", "floors"), [("retrieval_db", FLOORS), ("encoder", ENCODER_FLOORS)]
)
def test_a_room_stands_on_those_below_it(house: str, floors: tuple[set[str], ...]) -> None:
    below: set[str] = set()
    for floor in floors:
        for file in modules(house):
            if room_of(file, house) in floor:
                assert neighbours_of(file, house) <= below, file
        below |= floor
    assert below == rooms(house)
    assert sum(map(len, floors)) == len(below)


@pytest.mark.parametrize("file", modules("encoder"), ids=place_of)
def test_encoders_know_no_database(file: Path) -> None:
    # `photos` reads image files and knows no database either: training sees what indexing sees.
    allowed = {"encoders", "codes", "errors", "photos"}
    assert rooms_of(file) <= {"encoder", *(f"retrieval_db.{room}" for room in allowed)}
    assert not packages_of(file) & {"psycopg", "sqlalchemy", "alembic"}


def test_migrations_are_frozen() -> None:
    for file in modules("migrations"):
        if file.name == "env.py":
            assert rooms_of(file) == {"retrieval_db.database", "retrieval_db.schema"}
        else:
            assert packages_of(file) <= {"alembic"}, file


@pytest.mark.parametrize(("room", "others"), [("demo", {"cli"}), ("console", {"cli", "demo"})])
def test_what_commands_use_knows_no_command(room: str, others: set[str]) -> None:
    for file in modules(room):
        assert not rooms_of(file) & others, file


def test_no_room_is_imported_by_a_name_that_others_use() -> None:
    """In a wheel there is no top-level `encoder`, `console`, `demo` or `migrations`."""
    for room in ("retrieval_db", *LINKED):
        for file in modules(room):
            assert not packages_of(file) & set(LINKED), file


def test_the_links() -> None:
    for name in LINKED:
        link = ROOT / "retrieval_db" / (name if name != "cli" else "cli.py")
        assert link.is_symlink()
        assert link.resolve() == ROOT / link.name


def test_the_public_surface() -> None:
    assert retrieval_db.__all__ == [
        "BatchResult",
        "CodeSet",
        "Database",
        "Encoder",
        "ExportReport",
        "Hit",
        "IndexReport",
        "LoadReport",
        "MemorySource",
        "Query",
        "Restriction",
        "RetrievalError",
        "SearchResult",
        "StoredEncoder",
        "connect",
        "query_photo",
        "read_npz",
        "write_npz",
    ]
    for name in retrieval_db.__all__:
        assert getattr(retrieval_db, name).__doc__, name


def test_the_tree_of_errors_is_drawn_as_it_is() -> None:
    from retrieval_db import errors

    def drawn(kind: type[Exception], depth: int = 0) -> Iterator[tuple[int, str]]:
        yield depth, kind.__name__
        for below in kind.__subclasses__():
            if below.__module__ == errors.__name__:
                yield from drawn(below, depth + 1)

    lines = [line for line in (errors.__doc__ or "").splitlines() if line.startswith("    ")]
    wanted = []
    for line in lines:
        name = line.strip("│├└─ ").split()[0]
        wanted.append(((line.index(name) - 4) // 4, name))
    assert list(drawn(errors.RetrievalError)) == wanted
    for _, name in wanted:
        assert getattr(errors, name).__doc__.endswith(".")
        assert str(getattr(errors, name)()) == getattr(errors, name).__doc__


def test_what_the_encoders_and_the_files_of_codes_agree_on() -> None:
    from retrieval_db import interchange
    from retrieval_db.encoder import checkpoint

    assert interchange.ARTIFACT_KEY == checkpoint.HEADER_KEY


def imported(statement: str) -> set[str]:
    """The modules that are loaded after a statement, in a Python of its own."""
    done = subprocess.run(
        [sys.executable, "-c", f"{statement}\nimport sys; print(*sys.modules)"],
        env=os.environ | {"PYTHONWARNINGS": "ignore"},
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.parametrize(
    "statement",
    [
        "import retrieval_db",
        "import retrieval_db.cli",
        "import retrieval_db.encoder",
    ],
)
def test_what_takes_long_is_imported_late(statement: str) -> None:
    late = {"torch", "torchcodec", "torchvision", "safetensors", "sklearn", "scipy"}
    late |= {"alembic", "sqlalchemy", "fastapi", "starlette", "imagehash", "matplotlib"}
    assert not late & imported(statement)
