"""What other ways to encode change: flipped bits and mAP against float32 and Pillow.

    python -m benchmarks.precision [--device auto] [--photos 800]

Database: photos of `train`, evenly over the classes, and the head is fitted on them; queries: the
341 of `validation`. Flipped bits: the same head on the features of both ways. mAP: each way with a
head of its own, over the full ranking, relevant by label, tie-aware. Rates: decoding and resizing
in one thread, in processor time; the network as it encodes.
"""

from __future__ import annotations

import argparse
import itertools
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import study
from retrieval_db.codes import binarize, hamming_distances
from retrieval_db.encoder import PerceptualHash, create
from retrieval_db.encoder.devices.inference import Runner, resolve_device
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.evaluation import metrics
from retrieval_db.photos import Item, Sources
from retrieval_db.pipeline import Profile, encoding, reading
from retrieval_db.pipeline.reading import Prepared, Wanted

USUAL = "float32, Pillow"
WAYS: dict[str, dict[str, Any]] = {
    USUAL: {},
    "bfloat16, Pillow": {"precision": "bfloat16"},
    "float32, torchcodec": {"decoder": "torchcodec"},
    # As a torch without TorchScript does it.
    "float32, Pillow, layer by layer": {"layers": True},
}
ON_CUDA: dict[str, dict[str, Any]] = {"float32, nvJPEG": {"decoder": "nvjpeg"}}
TIMED = 256  # photos that the rates are measured on


def spread(folder: Path, count: int) -> list[Item]:
    """So many photos, as many of each class as there are."""
    classes = [list(Sources([place])) for place in sorted(folder.iterdir()) if place.is_dir()]
    turns = itertools.chain.from_iterable(itertools.zip_longest(*classes))
    return list(itertools.islice((item for item in turns if item is not None), count))


def labels(items: list[Item]) -> NDArray[np.str_]:
    return np.array([item.path.parent.name for item in items])


def mean_average_precision(
    queries: NDArray[np.uint8], database: NDArray[np.uint8], relevant: NDArray[np.bool_]
) -> float:
    distances = hamming_distances(queries, database)
    return metrics.mean(map(metrics.average_precision, distances, relevant))


def encoder_of(options: dict[str, Any], device: str) -> NetworkEncoder:
    options = dict(options)
    layers = options.pop("layers", False)
    made = create(
        "itq128",
        weights=study.data_dir() / "backbones" / "mobilenet_v2_imagenet.safetensors",
        input_size=225,
        mean=0.5,
        std=0.5,
        device=device,
        **options,
    )
    assert not isinstance(made, PerceptualHash)
    if layers:
        made.runner.module = Runner(
            made.backbone.module, made.preprocess, device, made.precision, record=False
        ).module
    return made


def rates(encoder: NetworkEncoder, items: list[Item]) -> dict[str, float]:
    """Images a second: decoding and resizing in one thread, and the network."""
    profile = Profile()
    reader = encoding.reader_for(encoder, profile, False, 1)
    outcomes = reading.read((Wanted(item, "") for item in items), reader, 1)
    arrays = np.stack([one.pixels.array for one in outcomes if isinstance(one, Prepared)])
    started = time.perf_counter()
    encoder.features(arrays)
    took = time.perf_counter() - started
    return {
        "decode_images_per_second": round(profile.decode.images / profile.decode.seconds, 1),
        "network_images_per_second": round(len(arrays) / took, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--photos", type=int, default=800)
    options = parser.parse_args()
    data = study.data_dir()
    train = spread(data / "clothing" / "train", options.photos)
    asked = list(Sources([data / "clothing" / "validation"]))
    relevant = labels(asked)[:, None] == labels(train)[None, :]
    outputs: dict[str, NDArray[np.float32]] = {}
    figures: dict[str, dict[str, Any]] = {}
    head: Any = None
    ways = WAYS | (ON_CUDA if resolve_device(options.device).type == "cuda" else {})
    for way, asked_for in ways.items():
        encoder = encoder_of(asked_for, options.device)
        found = [encoding.extract_features(items, encoder) for items in (train, asked)]
        fitted = encoder.fit(found[0])
        head = head or fitted
        outputs[way] = head.outputs(np.concatenate(found))
        database, queries = (binarize(fitted.outputs(part)) for part in found)
        precision = mean_average_precision(queries, database, relevant)
        figures[way] = {"mAP": round(precision, 4), **rates(encoder, train[:TIMED])}
        flipped = (outputs[way] > 0) != (outputs[USUAL] > 0)
        figures[way]["flipped_bits"] = round(float(flipped.mean()), 5)
        figures[way]["change_of_mAP"] = round(figures[way]["mAP"] - figures[USUAL]["mAP"], 4)
    about = {
        "backbone": "mobilenet_v2",
        "method": "itq128",
        "device": options.device,
        "versions": study.versions("pillow", "torch", "torchcodec"),
        "database": len(train),
        "queries": len(asked),
    }
    study.write("precision", study.command(), {**about, "ways": figures})


if __name__ == "__main__":
    main()
