"""The pipeline reader → encoder → writer against its stages alone, and against a plain script.

    python -m benchmarks.pipeline [--database URL | --no-database] [--device auto] [--photos N]
                                  [--hashed N] [--repeat N] [--only network hash writer]
                                  [--precision bf16] [--decoder torchcodec|nvjpeg]

Stages alone: `decode` reads and prepares with nobody behind it, `network` runs the encoder on
arrays that are in memory already, both on the same processors. On a CPU the two share them, so
the pipeline can reach 1 / (decode time + network time); on a GPU the smaller of the two rates.
Runs are interleaved, and the median of each is reported. The writer is held against COPY of the
very same bytes into the same tables, in transactions of the same size.

Photos: the clothing photos of the shared data, linked as often as it takes to have N. Worker
processes start once some hundred photos have been read: with fewer than several times as many
they are not measured.
"""

from __future__ import annotations

import argparse
import itertools
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks import databases, plain, study, writing
from retrieval_db import photos
from retrieval_db.client import Database
from retrieval_db.console.screen import note
from retrieval_db.encoder import PerceptualHash, create
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.networks.preprocess import DECODERS
from retrieval_db.encoders import Encoder, StreamEncoder
from retrieval_db.photos import Sources
from retrieval_db.pipeline import EncodeReport, Profile, Stage, encoding, reading
from retrieval_db.pipeline.encoding import ENCODE_BATCH
from retrieval_db.pipeline.processes import FEW, Processes
from retrieval_db.pipeline.reading import Prepared, Threads, Wanted

NAME = "benchmark-pipeline"
FIT_ON = 400
PROCESSES_MEASURED_FROM = 4 * FEW * reading.CHUNK  # photos: threads read the first quarter


# Processor seconds of this process and its workers in each measurement, by what was measured.
PROCESSOR: dict[str, list[float]] = {}


def processor_seconds() -> float:
    """Processor time of this process, and of those that it has started and seen end."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in used)


def seconds(work: Callable[[], Any], kind: str = "") -> float:
    """How long it took; the processor time is noted under `kind`."""
    started, busy = time.perf_counter(), processor_seconds()
    work()
    PROCESSOR.setdefault(kind, []).append(processor_seconds() - busy)
    return time.perf_counter() - started


def overhead(ways: Iterable[str]) -> dict[str, float]:
    """Processor time of decoding and network alone over that of the pipeline.

    On a machine that is shared with others it says more than wall time, but does not see waiting.
    """
    alone = median(PROCESSOR["decode"]) + median(PROCESSOR["network"])
    return {way: round(alone / median(PROCESSOR[way]), 3) for way in ways}


def linked(folder: Path, count: int) -> Path:
    """So many photos under different names."""
    folder.mkdir()
    files = list(photos.find(study.data_dir() / "clothing" / "train"))
    # Every class, not the first ones only.
    files = [file for start in range(10) for file in files[start::10]]
    for number, file in zip(range(count), itertools.cycle(files), strict=False):
        (folder / f"{number:06d}.jpg").symlink_to(file)
    return folder


def network(device: str, precision: str, decoder: str, folder: Path) -> NetworkEncoder:
    """mobilenet_v2 with its ImageNet weights and a 128-bit head."""
    weights = study.data_dir() / "backbones" / "mobilenet_v2_imagenet.safetensors"
    made = create(
        "itq128",
        name=NAME,
        weights=weights,
        input_size=225,
        mean=0.5,
        std=0.5,
        device=device,
        precision=precision,
        decoder=decoder,
    )
    assert not isinstance(made, PerceptualHash)
    sample = itertools.islice(Sources([folder]), FIT_ON)
    return made.fit(encoding.extract_features(sample, made))


def decode_seconds(folder: Path, reader: reading.Reader, workers: int) -> float:
    """Reading and preparing all photos, with nobody behind."""
    wanted = (Wanted(item, "") for item in Sources([folder]))

    def read() -> None:
        with closing(reading.read(wanted, reader, workers)) as outcomes:
            for outcome in outcomes:
                assert isinstance(outcome, Prepared)

    return seconds(read, "decode in processes" if isinstance(reader, Processes) else "decode")


def arrays(folder: Path, encoder: Encoder) -> list[NDArray[Any]]:
    """Prepared photos, batch by batch."""
    prepared = [
        encoder.prepare(photos.decode(photos.content(item.path), item.path))
        for item in Sources([folder])
    ]
    return [
        np.stack(prepared[start : start + ENCODE_BATCH])
        for start in range(0, len(prepared), ENCODE_BATCH)
    ]


def network_seconds(encoder: Encoder, batches: list[NDArray[Any]]) -> float:
    """The encoder on arrays that are in memory."""
    assert isinstance(encoder, StreamEncoder)
    stage = Stage("")
    return seconds(lambda: list(encoder.encode_stream(iter(batches), stage.add)), "network")


def pipeline_seconds(
    db: Database | None, encoder: Encoder, folder: Path, way: str, workers: int, processes: bool
) -> tuple[float, Profile]:
    """All of it, into the database if there is one; a first run, so every row is new."""
    if db is None:
        report = EncodeReport(NAME)
        images = encoding.wanted(Sources([folder]))
        encoded = encoding.encode_items(
            images, encoder, report, workers=workers, processes=processes
        )
        report.profile.seconds = seconds(lambda: list(encoded), way)
        return report.profile.seconds, report.profile
    forget(db)
    busy = processor_seconds()
    indexed = db.index(folder, encoder=encoder, workers=workers, processes=processes)
    PROCESSOR.setdefault(way, []).append(processor_seconds() - busy)
    assert not indexed.skipped
    assert indexed.encoded == indexed.found
    return indexed.profile.seconds, indexed.profile


def forget(db: Database) -> None:
    """Remove what an earlier run has stored."""
    if NAME in {stored.name for stored in db.encoders()}:
        db.remove_encoder(NAME)


def stage_rates(profile: Profile) -> dict[str, Any]:
    """What `index --profile` prints."""
    return {
        stage.name: {
            "workers": stage.workers,
            "busy_seconds": round(stage.seconds, 2),
            "images_per_second_alone": None if stage.rate is None else round(stage.rate, 1),
            "share": round(profile.share(stage), 3),
        }
        for stage in profile.stages
    } | {"bottleneck": None if profile.bottleneck is None else profile.bottleneck.name}


def compared(
    count: int, decode: list[float], work: list[float], whole: list[float], gpu: bool
) -> Any:
    """Rates, and what part of the possible the pipeline reaches."""
    decode_time, work_time = median(decode) / count, median(work) / count
    possible = 1 / max(decode_time, work_time) if gpu else 1 / (decode_time + work_time)
    reached = count / median(whole)
    return {
        "decode_alone_images_per_second": round(1 / decode_time, 1),
        "network_alone_images_per_second": round(1 / work_time, 1),
        "possible_images_per_second": round(possible, 1),
        "pipeline_images_per_second": round(reached, 1),
        "reached": round(reached / possible, 3),
        "seconds": {
            "decode": [round(value, 2) for value in decode],
            "network": [round(value, 2) for value in work],
            "pipeline": [round(value, 2) for value in whole],
        },
    }


def ways(cores: int, count: int, *, processes: bool = True) -> Iterator[tuple[str, int, bool]]:
    """Readers to compare on so many photos: name, how many, whether they are processes."""
    yield f"{cores} threads", cores, False
    if processes and count >= PROCESSES_MEASURED_FROM:
        yield f"{cores} processes", cores, True


def network_study(
    db: Database | None, encoder: NetworkEncoder, folder: Path, repeat: int
) -> dict[str, Any]:
    """mobilenet_v2 on photos: stages alone, the pipeline with each kind of reader, the script."""
    count = Sources([folder]).count()
    PROCESSOR.clear()
    batches = arrays(folder, encoder)
    cores = reading.processors()
    gpu = encoder.runner.device.type != "cpu"
    network_seconds(encoder, batches[:2])
    PROCESSOR.clear()
    work: list[float] = []
    script: list[float] = []
    decode: dict[str, list[float]] = {}
    whole: dict[str, list[float]] = {}
    profiles: dict[str, Profile] = {}
    for _ in range(repeat):
        work.append(network_seconds(encoder, batches))
        for name, workers, processes in ways(cores, count, processes=encoder.decoder is None):
            reader = encoding.reader_for(encoder, Profile(), processes, workers)
            decode.setdefault(name, []).append(decode_seconds(folder, reader, workers))
            took, profiles[name] = pipeline_seconds(db, encoder, folder, name, workers, processes)
            whole.setdefault(name, []).append(took)
        script.append(plain.seconds(db, encoder, folder, cores))
        note(
            f"network {work[-1]:.2f} s, decode {decode}, pipeline {whole}, script {script[-1]:.2f}"
        )
    # Stages alone are those of the faster kind of reader.
    best = min(decode, key=lambda name: median(decode[name]))
    return {
        "photos": count,
        "device": str(encoder.runner.device),
        "precision": encoder.config["precision"],
        "decoder": encoder.preprocess.decoder,
        "readers": {
            name: compared(count, decode[best], work, whole[name], gpu)
            | {"profile": stage_rates(profiles[name])}
            for name in whole
        },
        "dataloader_loop_insert_images_per_second": round(count / median(script), 1),
        "processor_time_alone_over_pipeline": overhead(whole),
    }


class Decoded:
    """Decoding alone: an array that says nothing."""

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        return np.zeros(1, dtype=np.uint8)


def hash_study(db: Database | None, folder: Path, repeat: int) -> dict[str, Any]:
    """phash64: decoding and hashing alone, and the pipeline."""
    count = Sources([folder]).count()
    PROCESSOR.clear()
    encoder = replace(create("phash64"), name=NAME)
    assert isinstance(encoder, PerceptualHash)
    cores = reading.processors()
    decoded = [photos.decode(photos.content(item.path), item.path) for item in Sources([folder])]
    decode: list[float] = []
    work: list[float] = []
    whole: dict[str, list[float]] = {}
    profiles: dict[str, Profile] = {}
    for _ in range(repeat):
        profile = Profile()
        reader = Threads(Decoded(), profile.read, profile.decode)
        decode.append(decode_seconds(folder, reader, cores))
        work.append(seconds(lambda: plain.in_threads(encoder.prepare, decoded, cores), "network"))
        for name, workers, processes in ways(cores, count):
            took, profiles[name] = pipeline_seconds(db, encoder, folder, name, workers, processes)
            whole.setdefault(name, []).append(took)
    return {
        "photos": count,
        "readers": {
            name: compared(count, decode, work, whole[name], gpu=False)
            | {"profile": stage_rates(profiles[name])}
            for name in whole
        },
        "processor_time_alone_over_pipeline": overhead(whole),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--database")
    parser.add_argument("--no-database", action="store_true", help="Encode only.")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="float32", choices=("float32", "bf16"))
    parser.add_argument("--decoder", default="pillow", choices=DECODERS)
    parser.add_argument("--photos", type=int, default=2_048)
    parser.add_argument("--hashed", type=int, default=12_000, help="Photos for phash64.")
    parser.add_argument("--rows", type=int, default=100_000, help="Of the writer's study.")
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--only", nargs="*", default=["network", "hash", "writer"])
    parser.add_argument("--output", default="pipeline", help="Name of the result file.")
    options = parser.parse_args()
    precision = "bfloat16" if options.precision == "bf16" else options.precision
    figures: dict[str, Any] = {
        "versions": study.versions("pillow", "torch", "torchcodec", "torchvision")
    }
    with ExitStack() as stack:
        temporary = Path(stack.enter_context(TemporaryDirectory()))
        db = None
        if not options.no_database:
            db = stack.enter_context(databases.fresh(options.database, "bench_pipeline"))
        if "network" in options.only:
            folder = linked(temporary / "network", options.photos)
            encoder = network(options.device, precision, options.decoder, folder)
            figures["network"] = network_study(db, encoder, folder, options.repeat)
            print(figures["network"], flush=True)
        if "hash" in options.only:
            folder = linked(temporary / "hash", options.hashed)
            figures["phash64"] = hash_study(db, folder, options.repeat)
            print(figures["phash64"], flush=True)
        if db is not None and "writer" in options.only:
            forget(db)
            figures["writer"] = writing.study(db, options.rows, options.repeat)
    study.write(options.output, study.command(), figures)


if __name__ == "__main__":
    main()
