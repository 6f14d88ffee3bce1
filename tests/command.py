"""The command line, in this process or as a program of its own; and photos for it."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from PIL import Image

from retrieval_db import cli

PROGRAM = (sys.executable, "-m", "retrieval_db.cli")


@dataclass(frozen=True)
class Outcome:
    """What a command left: its exit code and what it wrote."""

    code: int
    out: str
    err: str


def run(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Run a command as the program does, but in this process: that takes no second to start."""
    streams = [io.TextIOWrapper(io.BytesIO(data), "utf-8") for data in (stdin, b"", b"")]
    code: object = 0
    argv = ["retrieval-db", *map(str, arguments)]
    with mock.patch.multiple(
        sys, argv=argv, stdin=streams[0], stdout=streams[1], stderr=streams[2]
    ):
        try:
            cli.main()
        except SystemExit as ended:
            code = ended.code
    texts = []
    for stream in streams[1:]:
        stream.flush()
        assert isinstance(stream.buffer, io.BytesIO)
        texts.append(stream.buffer.getvalue().decode())
    assert isinstance(code, int)
    return Outcome(code, *texts)


def start(*arguments: object, **environment: str) -> subprocess.Popen[bytes]:
    """Start a command as a program of its own, which Ctrl-C stops.

    A shell has what it starts in the background ignore it, and the tests may be such a thing.
    """
    return subprocess.Popen(
        [*PROGRAM, *map(str, arguments)],
        env=os.environ | environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def succeed(*arguments: object, stdin: bytes = b"") -> Outcome:
    """Run a command that is to succeed."""
    outcome = run(*arguments, stdin=stdin)
    assert outcome.code == 0, outcome
    return outcome


def answers(*arguments: object, stdin: bytes = b"") -> Any:
    """What `search` answers, as it says it to programs."""
    return json.loads(succeed("search", *arguments, "--json", stdin=stdin).out)


def photo(seed: int) -> Image.Image:
    """A small picture that is like no other."""
    noise = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return Image.fromarray(noise).resize((32, 32), Image.Resampling.BICUBIC)


def photos(folder: Path, names: Iterable[str]) -> Path:
    """A folder with a different photo under each of these names."""
    for seed, name in enumerate(names):
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        photo(seed).save(file)
    return folder


def many_photos(folder: Path, count: int) -> Path:
    """A folder of so many small photos, a hundred different ones."""
    photos(folder, [f"{n:04}.png" for n in range(100)])
    for number in range(100, count):
        os.link(folder / f"{number % 100:04}.png", folder / f"{number:04}.png")
    return folder
