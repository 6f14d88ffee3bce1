"""One network and its codes of several widths, trained on CIFAR-10 and measured; one seed.

    python -m benchmarks.cifar10 --seed 0 --network cifar_large --epochs 40 --output DIR
                                 [--choose] [--resume] [--device cuda] [--precision bfloat16]
    python -m benchmarks.cifar10 --seed 0 --network cifar_large --method csq --output DIR
                                 --body DIR/ENCODERS.safetensors [--whole]
    python -m benchmarks.cifar10 --seed 0 --network mobilenet_v2 --input-size 65 --shift 8
                                 --lr 0.0005 --epochs 5 --output DIR

Protocol `cvprw15`: trained on the 50,000 training images, which are also the database; the
10,000 test images are queries, and are asked once, at the end. `--choose` trains on 45,000 and
asks the other 5,000 training images instead: that is where settings are chosen. Beside the codes
stands the accuracy of a softmax on the same network's features. `--protocol unseen` trains on
seven classes and searches the three others, beside cosine and ITQ of the same features.

With `--body` the network of an earlier run stays as it is, and only heads are learnt, from images
as they are instead of cut and mirrored ones; with `--whole` the network learns on. `mobilenet_v2`
begins with the ImageNet weights of the data folder, and sees the images enlarged.

DIR gets the curves, the result (`cifar10-….json`) and a compact encoder file; a copy of the
result in `benchmarks/results` is what the tables are written from. `--ship` puts encoders and
result into `encoder/shipped`, from where they come with the program. All images are kept on the
device.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks import study
from benchmarks.frozen import score
from retrieval_db import codes
from retrieval_db.console.screen import progress_bar, progress_bars
from retrieval_db.encoder import datasets, save_all, training
from retrieval_db.encoder.hashing.heads import fit_itq
from retrieval_db.encoder.hashing.recipes import Recipe
from retrieval_db.encoder.network import NetworkEncoder
from retrieval_db.encoder.networks import cifar
from retrieval_db.encoder.training import curves
from retrieval_db.encoder.training.loop import Epoch
from retrieval_db.encoder.training.watch import Watch
from retrieval_db.evaluation import by_cosine, by_prediction, ties

BITS = (12, 16, 32, 48, 64, 128)
BLOCK = 200  # images that are encoded at once
SHIPPED_AT_MOST = 3_000_000  # bytes


def measured(
    encoders: tuple[NetworkEncoder, ...], data: datasets.Dataset, split: datasets.Split
) -> dict[str, Any]:
    """mAP and the accuracy of naming the class, for each width; and the softmax's."""
    rows = np.concatenate([split.database, split.query])
    features = _features(encoders[0], data, rows)
    asked = np.arange(len(split.database), len(rows))
    labels = data.labels[rows]
    names = np.array(data.classes)[labels[asked]]
    known = np.arange(len(split.database))
    # No classifier names a class that it has never seen.
    known_classes = split.protocol != "unseen"

    def mean_precision(ranking: ties.Ties | Iterable[ties.Ties]) -> float:
        return round(score(ranking, split), 5)

    def hamming(outputs: NDArray[np.float32]) -> float:
        packed = codes.binarize(outputs)
        return mean_precision(
            ties.by_label(
                packed[asked], packed[known], outputs.shape[1], labels[asked], labels[known]
            )
        )

    def predicted(found: list[str]) -> dict[str, float]:
        number = {name: index for index, name in enumerate(data.classes)}
        numbers = np.array([number[name] for name in found])
        ranking = by_prediction(numbers, labels[asked], labels[known])
        accuracy = float((np.array(found) == names).mean())
        return {"accuracy": round(accuracy, 5), "map": mean_precision(ranking)}

    lines = []
    for encoder in encoders:
        outputs = encoder.outputs(features)
        line: dict[str, Any] = {"bits": encoder.bits, "map": hamming(outputs)}
        line["distinct_codes"] = len(np.unique(codes.binarize(outputs[known]), axis=0))
        head = encoder.head
        if known_classes and head is not None and head.classifier is not None:
            line["predicted_label"] = predicted(encoder.predict(outputs[asked]))
        lines.append(line)
        print(line, flush=True)
    if not known_classes:
        cosine = by_cosine(features[asked], features[known], labels[asked], labels[known])
        learnt = _features(encoders[0], data, split.train)
        for line in lines:
            itq = fit_itq(learnt, line["bits"], encoders[0].seed)
            line["itq"] = hamming(itq(features))
        return {"cosine": mean_precision(cosine), "widths": lines}
    return {"softmax": predicted(encoders[0].classify(features[asked])), "widths": lines}


def _features(
    encoder: NetworkEncoder, data: datasets.Dataset, rows: NDArray[np.int64]
) -> NDArray[np.float32]:
    parts = []
    with progress_bar("Encoding", len(rows)) as advance:
        for start in range(0, len(rows), BLOCK):
            part = rows[start : start + BLOCK]
            batch = np.stack([encoder.prepare(data.images[row]) for row in part.tolist()])
            if encoder.runner.device.type == "cpu":
                # `features` goes one by one, so that no feature depends on its neighbours in the
                # last place; together, small images take half of the time.
                parts.append(encoder.runner.forward(torch.from_numpy(batch)).numpy())
            else:
                parts.append(encoder.features(batch))
            advance(len(part))
    return np.concatenate(parts)


def few(split: datasets.Split, data: datasets.Dataset, images: int) -> datasets.Split:
    """The same with so many training images and a fifth of it in queries, to try it out."""
    train = split.train[:: max(1, len(split.train) // images)]
    query = split.query[:: max(1, 5 * len(split.query) // images)]
    return replace(split, train=train, database=train, query=query)


def recipe_of(given: argparse.Namespace) -> Recipe:
    usual = training.usual_recipe(given.method, given.network, frozen=only_heads(given))
    if given.body is None and given.network in cifar.NETWORKS:
        usual = usual.changed(epochs=40, learning_rate=0.2)
    return usual.changed(
        bits=tuple(map(int, given.bits.split(","))),
        epochs=given.epochs,
        learning_rate=given.lr,
        batch_size=given.batch_size,
        weight_decay=given.weight_decay,
        shift=given.shift,
        precision=given.precision,
        seed=given.seed,
    )


def only_heads(given: argparse.Namespace) -> bool:
    return given.body is not None and not given.whole


def unfitted(given: argparse.Namespace) -> NetworkEncoder:
    """The network as the training begins with it."""
    weights: Path | None = given.body
    changes: dict[str, object] = {"input_size": given.input_size, "flip": given.flip or None}
    if weights is None and given.network == "mobilenet_v2":
        weights = study.data_dir() / "backbones" / "mobilenet_v2_imagenet.safetensors"
        changes |= {"mean": 0.5, "std": 0.5}
    return training.unfitted(given.network, weights=weights, device=given.device, changes=changes)


def body_of(path: Path, protocol: str, seed: int) -> dict[str, Any]:
    """How the network of an earlier run was trained, from the result beside its encoders.

    It has to be of the same protocol and seed, or it may have learnt from images asked here.
    """
    made = json.loads(path.with_suffix(".json").read_text())
    if (made["protocol"], made["recipe"]["seed"]) != (protocol, seed):
        sys.exit(
            f"{path} was trained for {made['protocol']}, seed {made['recipe']['seed']}: "
            f"take one of {protocol}, seed {seed}."
        )
    kept = ("command", "commit", "training_seconds", "protocol", "softmax", "input_size", "body")
    recipe = {key: made["recipe"][key] for key in ("method", "epochs", "seed")}
    return {**recipe, **{key: made[key] for key in kept if key in made}}


def ship(encoders: Path, result: Path) -> None:
    """Make these the encoders that come with the program, with their figures beside them."""
    if encoders.stat().st_size > SHIPPED_AT_MOST:
        sys.exit(f"{encoders} is larger than {SHIPPED_AT_MOST:,} bytes: not shipped.")
    folder = study.ROOT / "encoder" / "shipped"
    folder.mkdir(exist_ok=True)
    shutil.copyfile(encoders, folder / "cifar10.safetensors")
    shutil.copyfile(result, folder / "cifar10.json")


def device_name(device: str) -> str:
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return torch.cuda.get_device_name()
    return f"CPU, {torch.get_num_threads()} threads"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--network", default="cifar_large")
    parser.add_argument("--method", default="orthohash")
    parser.add_argument("--bits", default=",".join(map(str, BITS)))
    parser.add_argument("--epochs", type=int)
    parser.add_argument("--lr", type=float)
    parser.add_argument("--batch-size", type=int)
    parser.add_argument("--weight-decay", type=float)
    parser.add_argument("--shift", type=int, help="pixels of the network's input")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--flip", action="store_true", help="mean with the mirror image")
    parser.add_argument("--precision", default="float32")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--protocol", default="cvprw15")
    parser.add_argument("--body", type=Path, help="encoders whose network stays as it is")
    parser.add_argument("--whole", action="store_true", help="the network of --body learns on")
    parser.add_argument("--choose", action="store_true")
    parser.add_argument("--images", type=int, help="so many training images only, to try it out")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--ship", action="store_true", help="put it into encoder/shipped")
    given = parser.parse_args()
    if given.whole and given.body is None:
        parser.error("--whole goes on with the network of --body: name its encoders.")
    recipe, commit = recipe_of(given), study.commit()
    file = study.data_dir() / "cifar10" / "cifar10_jpeg.npz"
    data = datasets.open_data(f"cifar10:{file}")
    split = datasets.protocol(data, given.protocol, given.seed)
    if given.choose:
        split = datasets.validation(data, split)
    if given.images:
        split = few(split, data, given.images)
    protocol = given.protocol + (", 5,000 training images held out" if given.choose else "")
    body = None if given.body is None else body_of(given.body, protocol, given.seed)
    role = "-choose" if given.choose else ""
    role += f"-trial{given.images}" if given.images else ""
    method = f"{given.method}-heads" if only_heads(given) else given.method
    size = f"-{given.input_size}px" if given.input_size else ""
    size += "-flip" if given.flip else ""
    name = f"cifar10-{given.network}{size}-{method}-{given.protocol}{role}-seed{given.seed}"
    given.output.mkdir(parents=True, exist_ok=True)
    curve: list[Epoch] = []

    def report(epoch: Epoch) -> None:
        curve.append(epoch)
        curves.write_csv(curve, given.output / f"{name}.csv")
        print(epoch, flush=True)

    started = time.perf_counter()
    with progress_bars() as bars:
        trained = training.train(
            data,
            split.train,
            unfitted(given),
            recipe,
            name="cifar10",
            frozen=only_heads(given),
            state=given.output / f"{name}.state",
            resume=given.resume,
            watch=Watch(bars, report),
        )
    seconds = time.perf_counter() - started
    encoders = training.compact(trained.encoders)
    save_all(encoders, given.output / f"{name}.safetensors")
    figures = {
        "data": data.name,
        "protocol": protocol,
        "network": given.network,
        "input_size": encoders[0].preprocess.input_size,
        "flip": encoders[0].preprocess.flip,
        "weights": sum(weight.numel() for weight in encoders[0].backbone.module.parameters()),
        "device": device_name(given.device),
        "commit": commit,
        "versions": study.versions("torch"),
        "recipe": json.loads(recipe.to_json()),
        "images": trained.images,
        "queries": len(split.query),
        "training_seconds": round(sum(epoch.seconds for epoch in trained.curve), 1),
        "seconds": round(seconds, 1),
        **measured(encoders, data, split),
    }
    if body is not None:
        figures |= {"body": body, "whole": given.whole}
    path = study.write(name, study.command(), figures)
    (given.output / f"{name}.state").unlink(missing_ok=True)
    shutil.copy(path, given.output)
    if given.ship:
        ship(given.output / f"{name}.safetensors", path)
    if given.images:
        path.unlink()
        print("A trial: its result stays in the output folder only.", file=sys.stderr)


if __name__ == "__main__":
    main()
