"""Every deep method with the same small network and budget on CIFAR-10, over several seeds.

    python -m benchmarks.end_to_end --epochs 4 [--methods …] [--seeds 0,1,2] [--output DIR]

The whole network `cifar` is trained from nothing on the 5,000 training images of protocol
`cifar10-5k`, with a head for each of 12, 32 and 48 bits; then the protocol's 1,000 queries are
asked once. Recipe, network and epochs are the same for all methods and were chosen for none of
them: the number of epochs is what the time allowed. Each line is added to the result file as it
is found; what is there already is not computed again, and an interrupted training goes on.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

from benchmarks import cifar10, frozen, study
from retrieval_db.console.screen import progress_bars
from retrieval_db.encoder import datasets, training
from retrieval_db.encoder.hashing.methods import METHODS
from retrieval_db.encoder.training.watch import Watch

NAME = "end-to-end-cifar10"
PROTOCOL = "cifar10-5k"
TRAINED = tuple(name for name, method in METHODS.items() if method.trained)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, required=True)
    parser.add_argument("--batch-size", type=int, default=50, help="few images make few steps")
    parser.add_argument("--network", default="cifar")
    parser.add_argument("--methods", default=",".join(TRAINED))
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--output", type=Path, default=frozen.CACHE, help="for interrupted states")
    given = parser.parse_args()
    file = study.data_dir() / "cifar10" / "cifar10_jpeg.npz"
    data = datasets.open_data(f"cifar10:{file}")
    usual = training.usual_recipe("orthohash", given.network, frozen=False)
    recipe = replace(usual, bits=frozen.BITS, epochs=given.epochs, batch_size=given.batch_size)
    ledger = study.Ledger(
        NAME,
        ("method", "seed"),
        {
            "data": data.name,
            "protocol": PROTOCOL,
            "network": given.network,
            "device": cifar10.device_name(given.device),
            "versions": study.versions("torch"),
            "recipe": json.loads(recipe.to_json()),
        },
    )
    given.output.mkdir(parents=True, exist_ok=True)
    for seed in map(int, given.seeds.split(",")):
        split = datasets.protocol(data, PROTOCOL, seed)
        for method in given.methods.split(","):
            if ledger.has(method, seed):
                continue
            state = given.output / f"{NAME}-{method}-{seed}.state"
            with progress_bars() as bars:
                trained = training.train(
                    data,
                    split.train,
                    training.unfitted(given.network, device=given.device),
                    replace(recipe, method=method, seed=seed),
                    name=method,
                    frozen=False,
                    state=state,
                    resume=True,
                    watch=Watch(bars),
                )
            started = time.perf_counter()
            found = cifar10.measured(trained.encoders, data, split)
            ledger.add(
                method=method,
                seed=seed,
                map={str(line["bits"]): line["map"] for line in found["widths"]},
                distinct_codes={
                    str(line["bits"]): line["distinct_codes"] for line in found["widths"]
                },
                softmax_accuracy=found["softmax"]["accuracy"],
                softmax_map=found["softmax"]["map"],
                training_seconds=round(sum(epoch.seconds for epoch in trained.curve), 1),
                measuring_seconds=round(time.perf_counter() - started, 1),
            )
            state.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
