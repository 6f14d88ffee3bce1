"""Pickles of codes and of paths: read as Python reads them, and nothing else is built."""

from __future__ import annotations

import io
import pickle
import pickletools
import random
import struct
import tracemalloc
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import IO, Any
from unittest import mock

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval_db import codes
from retrieval_db.errors import FormatError, RetrievalError, UsageError, WrongWidth
from retrieval_db.interchange import CodeSet, Settings, joined, open_source, pickle_machine

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

words = st.integers(0, 2**32 - 1) | st.integers(-(2**63), 2**64 - 1) | st.integers(0, 300)
entries = st.tuples(words, words, words, words)
texts = st.text(max_size=40)
roots = (
    st.lists(entries | st.lists(words, max_size=6) | texts, max_size=30)
    | st.dictionaries(st.integers(-5, 2**40) | texts, entries | texts, max_size=30)
    | st.tuples(entries, entries, texts)
    | st.lists(st.lists(words, max_size=3), max_size=3).map(lambda some: some * 3)
)


def read(data: bytes) -> list[tuple[Any, Any]]:
    """The entries of a pickle, as the machine hands them on."""

    @contextmanager
    def opened() -> Iterator[IO[bytes]]:
        yield io.BytesIO(data)

    return [
        pair
        for keys, values in pickle_machine.entries(opened)
        for pair in zip(keys, values, strict=True)
    ]


@settings(deadline=None, max_examples=150)
@given(roots, st.sampled_from(PROTOCOLS), st.integers(1, 50), st.booleans())
def test_it_reads_what_python_reads(root: Any, protocol: int, block: int, optimized: bool) -> None:
    """In blocks of every size; with what the pickle fetches again, and without."""
    data = pickle.dumps(root, protocol)
    if optimized:
        data = pickletools.optimize(data)
    wanted = pickle.loads(data)
    pairs = list(wanted.items()) if isinstance(wanted, dict) else list(enumerate(wanted))
    with mock.patch.object(pickle_machine, "BLOCK", block):
        assert read(data) == pairs


@given(st.sampled_from(PROTOCOLS), st.data())
def test_a_pickle_that_is_cut_off(protocol: int, data: st.DataObject) -> None:
    whole = pickle.dumps({row: (row, 2, 3, 2**32 - 1) for row in range(3000)}, protocol)
    cut = data.draw(st.integers(1, len(whole) - 1))
    with pytest.raises(FormatError, match="cut off"):
        read(whole[:cut])


@given(st.binary(max_size=60))
def test_no_bytes_crash_the_machine(junk: bytes) -> None:
    for data in (junk, b"\x80\x03]" + junk, b"\x80\x04}(" + junk):
        try:
            read(data + b".")
        except FormatError:
            continue


def test_equal_entries_that_are_one_object() -> None:
    code = (1, 2, 3, 4)
    for protocol in PROTOCOLS:
        root = [code if row % 3 else (row, 0, 0, 0) for row in range(5000)]
        assert [value for _, value in read(pickle.dumps(root, protocol))] == root


class Callable:
    """Whose pickle would run a command."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return (eval, (f"open({str(self.file)!r}, 'w').close()",))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_nothing_is_run(tmp_path: Path, protocol: int) -> None:
    data = pickle.dumps([(1, 2, 3, 4), Callable(tmp_path / "was run")], protocol)
    with pytest.raises(FormatError, match=r"It holds (__builtin__|builtins)\.eval\. Only integers"):
        read(data)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (None, "None"),
        (True, "a boolean"),
        (False, "a boolean"),
        (1.5, "a float"),
        (b"bytes", "bytes|_codecs.encode"),
        (bytearray(b"x"), r"\S*bytearray|bytes"),
        ({1, 2}, r"builtins\.set|__builtin__\.set|a set"),
        (frozenset([1]), r"\S*frozenset|a set"),
        (np.uint32(7), r"numpy\S*\.scalar"),
        (np.arange(4), r"numpy\S*\._reconstruct|numpy\S*\._frombuffer"),
        (Fraction(1, 2), r"fractions\.Fraction"),
        (OrderedDict(), r"collections\.OrderedDict"),
        (Path("a"), r"pathlib\S*\.PosixPath|an object"),
        (print, r"builtins\.print|__builtin__\.print"),
    ],
    ids=lambda value: type(value).__name__ if not isinstance(value, str) else "",
)
@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_refused_by_name(value: Any, name: str, protocol: int) -> None:
    for root in ([value], {0: (1, 2, 3, value)}):
        with pytest.raises(FormatError, match=rf"It holds ({name})"):
            read(pickle.dumps(root, protocol))


BOMBS = {
    "a memo number that asks for 32 GB": b"\x80\x03]r\xff\xff\xff\xff(K\x01e.",
    "a text that says it has 2^62 bytes": b"\x80\x04]\x8d" + struct.pack("<Q", 2**62) + b"a.",
    "a text that says it has 4 GB": b"\x80\x03]X\xff\xff\xff\xffa.",
    "an integer of 2 GB": b"\x80\x03]\x8b\xff\xff\xff\x7f" + b"\xff" * 99,
    "an integer of 255 bytes": b"\x80\x03]\x8a\xff" + b"\x7f" * 300 + b"a.",
    "marks without end": b"\x80\x03](" + b"(" * 1_100_000,
    "numbers without end": b"\x80\x03](" + b"K\x01" * 70_000,
    "a list in itself": b"\x80\x03]q\x00h\x00a.",
    "digits without end": b"(lp0\nI" + b"9" * 1_100_000,
    "tuples in tuples": b"\x80\x03](K\x01" + b"\x85" * 200_000 + b"e.",
    "an entry without end": b"\x80\x03](](" + b"K\x01" * 2_000 + b"ee.",
    "what was never made": b"\x80\x03](h\x07e.",
    "the top of an empty stack": b"\x80\x03a.",
    "a mark that is not there": b"\x80\x03]e.",
    "an opcode that is none": b"\x80\x03]\xffa.",
    "protocol 9": b"\x80\x09].",
    "one number": b"\x80\x03K\x01.",
    "two ways to remember": b"\x80\x04]q\x00(K\x01\x94h\x00e.",
}


@pytest.mark.parametrize("name", BOMBS)
def test_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """A clear error, and soon: not one of them is ever built."""
    file = tmp_path / "bomb.pkl"
    file.write_bytes(BOMBS[name])
    tracemalloc.start()
    monkeypatch.setattr(pickle_machine, "MAX_STACK", 50_000)
    monkeypatch.setattr(pickle_machine, "BLOCK", 10_000)
    try:
        if name == "a memo number that asks for 32 GB":
            with pytest.raises(FormatError, match="Entry 0 is an integer"):
                list(open_source(file).batches(10))
        else:
            with pytest.raises(RetrievalError, match=r"bomb\.pkl"):
                list(open_source(file).batches(10))
        assert tracemalloc.get_traced_memory()[1] < 20 << 20
    finally:
        tracemalloc.stop()


def test_entries_are_never_held_together(tmp_path: Path) -> None:
    random_ = random.Random(0)
    root = {row: tuple(random_.getrandbits(32) for _ in range(4)) for row in range(30_000)}
    (tmp_path / "codes.pkl").write_bytes(pickle.dumps(root, 3))
    del root

    def peak(work: Any) -> int:
        tracemalloc.start()
        try:
            work()
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole = peak(lambda: pickle.loads((tmp_path / "codes.pkl").read_bytes()))

    def stream() -> None:
        for _ in open_source(tmp_path / "codes.pkl").batches(1000):
            pass

    assert peak(stream) < whole / 3


def codes_of(file: Path, **options: Any) -> CodeSet:
    """A file's codes, read in small batches."""
    return joined(list(open_source(file, Settings(**options)).batches(7)))


class TestCodes:
    """The dict and the list, with and without a file of paths."""

    rows = tuple((row, 2**32 - 1, 3, 4) for row in range(20))
    names = tuple(f"/a/ä{row}.jpg" for row in range(20))

    def write(self, folder: Path, root: Any, name: str = "codes.pkl", protocol: int = 3) -> Path:
        (folder / name).write_bytes(pickle.dumps(root, protocol))
        return folder / name

    @pytest.mark.parametrize("protocol", PROTOCOLS)
    @pytest.mark.parametrize("form", ["dict", "list", "tuple", "lists"])
    def test_every_form(self, tmp_path: Path, form: str, protocol: int) -> None:
        roots: dict[str, Any] = {
            "dict": dict(enumerate(self.rows)),
            "list": list(self.rows),
            "tuple": self.rows,
            "lists": [list(row) for row in self.rows],
        }
        file = self.write(tmp_path, roots[form], protocol=protocol)
        found = codes_of(file)
        assert codes.to_words(found.codes, 128).tolist() == [list(row) for row in self.rows]
        assert list(found.paths) == [str(row) for row in range(20)]

    @pytest.mark.parametrize("form", ["list", "dict", "text", "disordered"])
    def test_paths(self, tmp_path: Path, form: str) -> None:
        paths: Any = list(self.names)
        if form == "dict":
            paths = dict(enumerate(paths))
        if form == "disordered":
            paths = {row: self.names[row] for row in random.Random(0).sample(range(20), 20)}
        file = self.write(tmp_path, paths, "paths.pkl")
        if form == "text":
            file.write_text("\n".join(self.names) + "\n", encoding="utf-8")
        for root in (list(self.rows), dict(enumerate(self.rows))):
            found = codes_of(self.write(tmp_path, root), paths=file)
            assert found.paths == list(self.names)

    def test_keys_that_are_paths(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, dict(zip(self.names, self.rows, strict=True)))
        assert codes_of(file).paths == list(self.names)
        with pytest.raises(UsageError, match="leave --paths out"):
            codes_of(file, paths=self.write(tmp_path, list(self.names), "paths.pkl"))

    def test_too_few_and_too_many_paths(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, list(self.rows))
        few = self.write(tmp_path, list(self.names[:9]), "few.pkl")
        with pytest.raises(FormatError, match=r"few\.pkl has no path for the code 9"):
            codes_of(file, paths=few)
        many = self.write(tmp_path, [*self.names, "more", "more"], "many.pkl")
        source = open_source(file, Settings(paths=many))
        assert sum(map(len, source.batches(7))) == 20
        assert source.remarks == [f"2 paths of {many} belong to no code."]

    def test_a_list_as_the_key_of_a_path(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, list(self.rows))
        (tmp_path / "paths.pkl").write_bytes(b"\x80\x02}]X\1\0\0\0as.")
        with pytest.raises(FormatError, match=r"paths\.pkl: a key is a list of 0, neither number"):
            codes_of(file, paths=tmp_path / "paths.pkl")

    @pytest.mark.parametrize(
        ("root", "error", "message"),
        [
            ([(1, 2, 3)], FormatError, "Entry 0 is a tuple of 3, not a code"),
            ([(1, 2, 3, 4), (1, 2, 3, "4")], FormatError, "Entry 1 is a tuple of 4"),
            (["a", "b"], FormatError, "Entry 0 is the text 'a'"),
            ({(1, 2): (1, 2, 3, 4)}, FormatError, "keys are neither numbers nor paths"),
            ([(1, 2, 3, 2**32)], WrongWidth, "Entry 0 has a word .* not one of 32 bits"),
            ([(1, 2, 3, -1)], WrongWidth, "--bits says"),
            ([(1, 2, 3, 2**64)], WrongWidth, "more than 64 bits"),
            ({"a": {"b": 1}}, FormatError, "An entry is a dict"),
        ],
    )
    def test_what_is_no_code(
        self, tmp_path: Path, root: Any, error: type[Exception], message: str
    ) -> None:
        with pytest.raises(error, match=message):
            codes_of(self.write(tmp_path, root))

    def test_other_widths(self, tmp_path: Path) -> None:
        file = self.write(tmp_path, [(2**64 - 1, -1, 0, 2**63)])
        found = codes_of(file, bits=256)
        assert found.codes[0].tobytes().hex() == "f" * 32 + "0" * 16 + "8" + "0" * 15
        file = self.write(tmp_path, [(1, 2, 4095, 0)])
        assert codes_of(file, bits=48).codes[0].tobytes().hex() == "001002fff000"

    def test_the_file_of_the_old_system(self, data_dir: Path) -> None:
        found = codes_of(data_dir / "codes" / "sun397_DPLM128Code.pkl")
        wanted = np.load(data_dir / "codes" / "sun397_dplm128.npy")
        assert (codes.to_words(found.codes, 128) == wanted).all()
        assert list(found.paths) == list(map(str, range(len(wanted))))
