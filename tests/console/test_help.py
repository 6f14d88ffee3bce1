"""Help and versions: every command and every option says what it is for."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

import retrieval_db
from retrieval_db import cli
from tests import command


def commands() -> Iterator[tuple[str, ...]]:
    def walk(group: Any, path: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
        for name, item in group.commands.items():
            yield (*path, name)
            if hasattr(item, "commands"):
                yield from walk(item, (*path, name))

    yield ()
    yield from walk(typer.main.get_command(cli.app), ())


class TestHelp:
    """Every command and every option says what it is for."""

    @pytest.mark.parametrize("path", list(commands()), ids=" ".join)
    def test_every_command(self, path: tuple[str, ...]) -> None:
        out = command.succeed(*path, "--help").out
        assert "Usage:" in out
        assert len(out.splitlines()) > 4

    def test_every_option(self) -> None:
        group: Any = typer.main.get_command(cli.app)
        for path in commands():
            item = group
            for name in path:
                item = item.commands[name]
            assert item.help, path
            for parameter in item.params:
                if parameter.param_type_name == "option":
                    said = parameter.help or parameter.metavar
                    assert said, (path, parameter.name)

    @pytest.mark.parametrize("name", ["search", "duplicates"])
    def test_searches_offer_no_encoder_that_they_refuse(self, name: str) -> None:
        assert "safetensors" not in command.succeed(name, "--help").out

    def test_version(self) -> None:
        assert command.succeed("--version").out == f"retrieval-db {retrieval_db.__version__}\n"

    def test_as_a_module(self) -> None:
        asked = [sys.executable, "-m", "retrieval_db", "--version"]
        done = subprocess.run(asked, capture_output=True, text=True, check=True)
        assert done.stdout == f"retrieval-db {retrieval_db.__version__}\n"

    def test_without_a_command(self) -> None:
        outcome = command.run()
        assert outcome.code == 2
        assert "Usage:" in outcome.out + outcome.err
