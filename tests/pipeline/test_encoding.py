"""Reading and encoding beside each other: the bits and the order of a plain loop."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from retrieval_db import encoder as encoders_of_photos
from retrieval_db import photos
from retrieval_db.codes import binarize
from retrieval_db.encoders import Encoder
from retrieval_db.errors import RetrievalError
from retrieval_db.interchange import CodeSet, joined
from retrieval_db.photos import Sources
from retrieval_db.pipeline import (
    EncodeReport,
    Profile,
    Stage,
    encode_items,
    encoding,
    processes,
    reading,
)
from retrieval_db.pipeline.encoding import wanted
from retrieval_db.search import query_photo
from tests import command

COUNT = 150


@pytest.fixture(autouse=True)
def _processes_from_the_first_image(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "FEW", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Photos, and files that are none, among them."""
    place = command.photos(tmp_path_factory.mktemp("photos"), [f"{n:04}.png" for n in range(COUNT)])
    whole = (place / "0000.png").read_bytes()
    for number in (0, 63, 64, 99, COUNT - 1):
        (place / f"{number:04}b.png").write_bytes(whole[: len(whole) // 2])
    return place


def loop(encoder: Encoder, folder: Path) -> tuple[list[str], NDArray[np.uint8], Any]:
    """What a plain loop over single images gives."""
    names: list[str] = []
    packed: list[NDArray[np.uint8]] = []
    features: list[Any] = []
    for file in photos.find(folder):
        if file.stem.endswith("b"):
            continue
        image = photos.decode(photos.content(file), file)
        feature, outputs = encoder.encode(encoder.prepare(image)[None])
        names.append(str(file))
        packed.append(binarize(outputs))
        features.append(feature)
    together = None if features[0] is None else np.concatenate(features)
    return names, np.concatenate(packed), together


def pipeline(encoder: Encoder, folder: Path, **options: Any) -> tuple[CodeSet, EncodeReport]:
    report = EncodeReport(encoder.name)
    images = encoding.counted(wanted(Sources([folder])), report)
    return joined(list(encode_items(images, encoder, report, **options))), report


@pytest.fixture(scope="module")
def network() -> Any:
    """A small network; what it was trained for does not matter here."""
    pytest.importorskip("torch", reason="the extra `encoder` is not installed")
    images = [command.photo(seed).resize((16, 16)) for seed in range(8)]
    return encoders_of_photos.train_small(images, ["a", "b"] * 4, 20, epochs=1, device="cpu")


WAYS = [{"workers": 1}, {"workers": 3, "processes": False}, {"workers": 2, "processes": True}]


@pytest.fixture(scope="module")
def own_decoder(network: Any) -> Any:
    """The same, decoding JPEGs by itself."""
    pytest.importorskip("torchcodec", reason="the extra `torchcodec` is not installed")
    return replace(network, preprocess=network.preprocess.changed(decoder="torchcodec"))


class TestSameBits:
    """The codes are those of a plain loop over single images, bit by bit and in order."""

    @pytest.mark.parametrize("way", WAYS, ids=str)
    def test_a_perceptual_hash(self, folder: Path, way: dict[str, Any]) -> None:
        encoder = encoders_of_photos.create("phash64")
        names, packed, _ = loop(encoder, folder)
        found, report = pipeline(encoder, folder, **way)
        assert found.paths == names
        assert np.array_equal(found.codes, packed)
        assert (report.found, len(report.skipped)) == (COUNT + 5, 5)
        assert {reason.partition(" (")[0] for _, reason in report.skipped} == {"broken image"}

    @pytest.mark.parametrize("way", WAYS, ids=str)
    def test_a_network(self, folder: Path, network: Any, way: dict[str, Any]) -> None:
        names, packed, features = loop(network, folder)
        found, report = pipeline(network, folder, **way)
        assert found.paths == names
        assert np.array_equal(found.codes, packed)
        assert found.features is not None
        assert np.array_equal(found.features, features)
        assert report.profile.encode.images == COUNT

    @pytest.mark.parametrize("way", WAYS, ids=str)
    def test_a_network_that_decodes(
        self,
        tmp_path: Path,
        own_decoder: Any,
        network: Any,
        way: dict[str, Any],
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """JPEGs by itself, the others by Pillow; and the queries as well."""
        from retrieval_db.encoder.devices.decoding import JpegDecoder

        by_itself: list[bytes] = []
        decode = JpegDecoder.__call__

        def counted(decoder: JpegDecoder, files: Sequence[bytes]) -> list[Any]:
            arrays = decode(decoder, files)
            by_itself.extend(
                file for file, array in zip(files, arrays, strict=True) if array is not None
            )
            return arrays

        monkeypatch.setattr(JpegDecoder, "__call__", counted)
        names = [f"{number:02}.{'jpg' if number % 3 else 'png'}" for number in range(30)]
        folder = command.photos(tmp_path, names)
        whole = (folder / "01.jpg").read_bytes()
        (folder / "01b.jpg").write_bytes(whole[: len(whole) // 2])
        (folder / "02b.jpg").write_text("no image")
        names, packed, features = loop(own_decoder, folder)
        found, report = pipeline(own_decoder, folder, **way)
        assert found.paths == names
        assert np.array_equal(found.codes, packed)
        assert found.features is not None
        assert np.array_equal(found.features, features)
        assert [Path(name).name for name, _ in report.skipped] == ["01b.jpg", "02b.jpg"]
        assert report.profile.decode.images == len(names) + 2
        jpegs = [Path(name).read_bytes() for name in names if name.endswith(".jpg")]
        assert sorted(by_itself) == sorted(jpegs)
        for name, feature in zip(names[:4], features, strict=False):
            asked = query_photo(name, own_decoder).feature
            assert asked is not None
            assert np.array_equal(asked, feature)
        assert by_itself[len(jpegs) :] == jpegs[:2]
        assert own_decoder.fingerprint != network.fingerprint

    def test_a_network_that_remembers(self, folder: Path, network: Any) -> None:
        """What a head was fitted on is not computed again, and changes no bit."""
        from retrieval_db.encoder.memory import Remembering

        memory = Remembering(replace(network, method="lsh", head=None))
        fit_on = list(Sources([folder]))[40:120]
        memory.fit(encoding.extract_features(fit_on, memory))
        names, packed, features = loop(memory.encoder, folder)
        found, report = pipeline(memory, folder)
        assert found.paths == names
        assert np.array_equal(found.codes, packed)
        assert found.features is not None
        assert np.array_equal(found.features, features)
        assert report.profile.encode.images == COUNT

    def test_codes_computed_on_a_device(self, network: Any) -> None:
        """Head, sign and packing as tensors, as a GPU computes them."""
        import torch

        from retrieval_db.encoder.hashing.coding import coder
        from retrieval_db.encoder.hashing.heads import LinearHead

        random = np.random.default_rng(0)
        features = random.standard_normal((500, 48), dtype=np.float32)
        features[3] = 0
        for bits in (4, 20, 64, 128):
            for normalize in (True, False):
                weight = random.standard_normal((48, bits), dtype=np.float32)
                bias = random.standard_normal(bits, dtype=np.float32) * (not normalize)
                head = LinearHead(weight, bias, normalize)
                found = coder(head, torch.device("cpu"))(torch.from_numpy(features))
                assert np.array_equal(found.numpy(), binarize(head(features)))


class TestReading:
    """Readers in threads or processes."""

    def test_no_more_is_read_ahead_than_a_bound(self, folder: Path) -> None:
        started: list[Any] = []

        class Counting:
            def __call__(self, wanted: Sequence[reading.Wanted]) -> list[reading.Result]:
                started.extend(wanted)
                return [None for _ in wanted]

            def close(self) -> None:
                started.append(None)

        images = [reading.Wanted(item, "") for item in Sources([folder])] * 20
        outcomes = reading.read(iter(images), Counting(), 2)
        next(outcomes)
        time.sleep(0.1)
        assert len(started) <= (reading.AHEAD * 2 + 1) * reading.CHUNK
        outcomes.close()
        assert started[-1] is None

    def test_an_error_of_the_program_is_none_of_the_image(self, folder: Path) -> None:
        class Broken:
            name, bits, fingerprint = "broken", 64, "broken"

            @property
            def preparer(self) -> Any:
                return missing_module

            prepare = staticmethod(lambda image: missing_module(image))

        for apart in (False, True):
            with pytest.raises(ImportError, match="no_such_module"):
                pipeline(Broken(), folder, processes=apart)  # type: ignore[arg-type]

    def test_a_script_without_a_main_guard_may_use_processes(
        self, folder: Path, tmp_path: Path
    ) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "from pathlib import Path\n"
            "from retrieval_db.pipeline import processes\n"
            "from retrieval_db.encoder import create\n"
            "from retrieval_db.pipeline.encoding import *\n"
            "processes.FEW = 0\n"
            "from retrieval_db.photos import Sources\n"
            "report = EncodeReport('')\n"
            f"images = wanted(Sources([Path({str(folder)!r})]))\n"
            "found = encode_items(images, create('phash64'), report, processes=True, workers=2)\n"
            "print(sum(map(len, found)))\n"
        )
        done = subprocess.run(
            [sys.executable, script], capture_output=True, text=True, check=False, timeout=60
        )
        assert (done.stdout, done.stderr) == (f"{COUNT}\n", "")

    def test_workers_end_with_a_killed_parent(self, tmp_path: Path) -> None:
        script = tmp_path / "script.py"
        script.write_text(
            "import sys, time\n"
            "from PIL import Image\n"
            "from retrieval_db.pipeline import processes\n"
            "from retrieval_db.encoder import create\n"
            "from retrieval_db.pipeline import Stage\n"
            "processes.FEW = 0\n"
            "reader = processes.Processes(create('phash64').preparer, Stage(''), Stage(''))\n"
            "reader([])\n"
            "print(reader._workers[0].process.pid, flush=True)\n"
            "time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE)
        assert process.stdout is not None
        worker = int(process.stdout.readline())
        process.kill()
        process.communicate()
        for _ in range(100):
            try:
                os.kill(worker, 0)
            except ProcessLookupError:
                return
            # Where nobody adopts orphans, the dead stay visible.
            if "Z" in Path(f"/proc/{worker}/stat").read_text().rpartition(")")[2].split()[0]:
                return
            time.sleep(0.1)
        os.kill(worker, signal.SIGKILL)
        pytest.fail("the worker went on without its parent")

    @pytest.mark.parametrize("when", ["idle", "at work"])
    def test_a_worker_that_is_killed(
        self, folder: Path, when: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """It is not the reader of our output that left: the error says what has ended."""
        monkeypatch.setattr(processes, "FEW", 0)
        prepare = dying if when == "at work" else encoders_of_photos.create("phash64").preparer
        reader = processes.Processes(prepare, Stage(""), Stage(""))
        # The worker of this thread, and another one.
        reader([])
        other = threading.Thread(target=reader, args=[[]])
        other.start()
        other.join()
        killed, alive = (worker.process for worker in reader._workers)
        if when == "idle":
            killed.kill()
            killed.wait()
        with pytest.raises(RetrievalError, match=r"reader process ended .* --workers"):
            reader([reading.Wanted(item, "") for item in Sources([folder])][: reading.CHUNK])
        reader.close()
        assert (killed.returncode, alive.returncode) == (-signal.SIGKILL, 0)


def dying(image: Image.Image) -> Any:
    """What a worker is killed at, but not the sample that this process prepares."""
    if image.size != (64, 64):
        os.kill(os.getpid(), signal.SIGKILL)
    return np.zeros(64)


def missing_module(image: Image.Image) -> Any:
    import no_such_module  # type: ignore[import-not-found] # noqa: F401


class TestProfile:
    """Which stage the others waited for."""

    def test_the_slowest_stage_is_the_bottleneck(self) -> None:
        profile = Profile(
            read=Stage("read", 2, 100, 0.1),
            decode=Stage("decode", 2, 100, 1.0),
            encode=Stage("encode", 1, 100, 2.0),
            write=Stage("write", 1, 100, 0.2),
            seconds=2.5,
        )
        assert [stage.rate for stage in profile.stages] == [2000, 200, 50, 500]
        assert profile.bottleneck is profile.encode
        assert profile.share(profile.encode) == pytest.approx(0.8)
        assert profile.share(profile.decode) == pytest.approx(0.2)
        assert Profile().bottleneck is None

    def test_on_the_command_line(self, database_url: str, folder: Path) -> None:
        arguments = ["index", folder, "-e", "phash64", "-d", database_url, "--profile"]
        out = command.succeed(*arguments).out
        table = {line.split()[0]: line.split() for line in out.splitlines() if line.strip()}
        for stage in ("read", "decode", "encode", "write"):
            assert int(table[stage][2]) >= COUNT, out
            assert table[stage][-1].endswith("%")
        assert "The bottleneck is: " in out
        again = command.succeed(*arguments, "--processes", "--workers", "2").out
        assert f"{COUNT} unchanged" in again
        assert "The bottleneck is: " in again
