"""Files that are written whole or not at all, wherever their names lead."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from retrieval_db.console.screen import check_folder, check_writable
from retrieval_db.errors import FormatError, UsageError
from retrieval_db.interchange import replacing

pytestmark = pytest.mark.skipif(os.name != "posix", reason="links, pipes and rights of POSIX")


def write(path: Path, text: str = "new") -> None:
    check_writable(path)
    with replacing(path) as temporary:
        temporary.write_text(text)


def test_a_new_file_has_the_usual_rights(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write(tmp_path / "file")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_file_keeps_its_rights(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    file.chmod(0o600)
    write(file)
    assert (file.read_text(), stat.S_IMODE(file.stat().st_mode)) == ("new", 0o600)


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "far").mkdir()
    target, link = tmp_path / "far" / "target", tmp_path / "link"
    target.write_text("old")
    link.symlink_to(target)
    write(link)
    assert link.is_symlink()
    assert target.read_text() == "new"
    assert sorted(path.name for path in (tmp_path / "far").iterdir()) == ["target"]


def test_a_pipe_is_written_through(tmp_path: Path) -> None:
    pipe, read = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: read.append(pipe.read_text()), daemon=True)
    reader.start()
    write(pipe)
    reader.join(30)
    assert read == ["new"]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no /dev/full")
def test_a_device_is_written_through(tmp_path: Path) -> None:
    """Through a link: whoever may replace files in /dev would harm the system with a mistake."""
    full, null = tmp_path / "full", tmp_path / "null"
    full.symlink_to("/dev/full")
    null.symlink_to("/dev/null")
    write(null)
    with pytest.raises(FormatError, match="No space left"):
        write(full)
    assert all(stat.S_ISCHR(path.stat().st_mode) for path in (full, null))


def test_what_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="it is a folder"):
        check_writable(tmp_path)
    with pytest.raises(UsageError, match="its folder is not there"):
        check_writable(tmp_path / "none" / "file")
    with pytest.raises(FormatError, match="No such file"), replacing(tmp_path / "none" / "file"):
        pass
    (tmp_path / "file").touch()
    check_folder(tmp_path / "new" / "plots")
    with pytest.raises(UsageError, match="file is no folder"):
        check_folder(tmp_path / "file" / "plots")


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="root writes everywhere")
def test_a_protected_file_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").touch(mode=0o444)
    with pytest.raises(UsageError, match="write-protected"):
        check_writable(tmp_path / "file")
