"""Training that was interrupted goes on to the same encoder, or is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from retrieval_db import encoder
from retrieval_db.encoder import training
from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.encoder.training import loop
from retrieval_db.encoder.training.loop import Epoch
from retrieval_db.encoder.training.sources import FeatureSource
from retrieval_db.encoder.training.watch import Watch
from retrieval_db.errors import FormatError, UsageError
from tests.encoder.training.colours import FEW, coloured, every, train_network


def test_a_state_of_other_weights_is_refused(trained: training.Trained, tmp_path: Path) -> None:
    """Also where the weights come from encoders, which no file's hash tells apart."""
    other = train_network(coloured(48), replace(FEW, seed=1, epochs=1))
    files = tmp_path / "one.safetensors", tmp_path / "other.safetensors"
    encoder.save(trained.encoders[0], files[0])
    encoder.save(other.encoders[0], files[1])
    state = tmp_path / "small.state"

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    def go_on(file: Path, **options: Any) -> training.Trained:
        data, base = coloured(48), training.unfitted("cifar", weights=file, device="cpu")
        return training.train(
            data, every(data), base, FEW, name="small", frozen=False, state=state, **options
        )

    with pytest.raises(KeyboardInterrupt):
        go_on(files[0], watch=Watch(epoch=stop))
    with pytest.raises(UsageError, match="other settings or images"):
        go_on(files[1], resume=True)
    assert len(go_on(files[0], resume=True).curve) == 2


def test_an_interrupted_training_goes_on_to_the_same_encoder(
    trained: training.Trained, tmp_path: Path
) -> None:
    state = tmp_path / "small.state"
    told: list[Epoch] = []

    class Stop(Exception):
        pass

    def stop(epoch: Epoch) -> None:
        raise Stop

    with pytest.raises(Stop):
        train_network(coloured(48), state=state, watch=Watch(epoch=stop))
    assert state.exists()
    with pytest.raises(UsageError, match=r"interrupted: --resume"):
        train_network(coloured(48), state=state)
    with pytest.raises(UsageError, match="other settings or images"):
        train_network(coloured(48), replace(FEW, seed=1), state=state, resume=True)
    with pytest.raises(UsageError, match="other settings or images"):
        train_network(coloured(48, seed=1), state=state, resume=True)
    watch = Watch(epoch=told.append)
    resumed = train_network(coloured(48), state=state, resume=True, watch=watch)
    assert [one.fingerprint for one in resumed.encoders] == [
        one.fingerprint for one in trained.encoders
    ]
    assert [epoch.epoch for epoch in told] == [1, 2]
    again = train_network(coloured(48), state=state, resume=True)  # it was complete
    assert again.encoders[0].fingerprint == resumed.encoders[0].fingerprint
    state.write_bytes(b"half of a file")
    with pytest.raises(FormatError, match="damaged"):
        train_network(coloured(48), state=state, resume=True)


def test_a_state_from_before_gpus_were_saved(trained: training.Trained, tmp_path: Path) -> None:
    state = tmp_path / "small.state"

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_network(coloured(48), state=state, watch=Watch(epoch=stop))
    content = torch.load(state, weights_only=True)
    del content["cuda"]
    torch.save(content, state)
    resumed = train_network(coloured(48), state=state, resume=True)
    assert resumed.encoders[0].fingerprint == trained.encoders[0].fingerprint


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_goes_on_with_the_same_random_numbers(tmp_path: Path) -> None:
    drawn: list[torch.Tensor] = []

    class Dropout(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            drawn.append(torch.rand(4, device=x.device).cpu())
            return x

    def stop(epoch: Epoch) -> None:
        raise KeyboardInterrupt

    def run(**options: Any) -> list[torch.Tensor]:
        drawn.clear()
        rows = np.random.default_rng(0).standard_normal((24, 5)).astype(np.float32)
        source = FeatureSource(rows, torch.device("cuda"))
        recipe = FROZEN.changed(bits=(8,), epochs=2, batch_size=12)
        loop.train(Dropout(), 5, source, np.arange(24) % 3, 3, recipe, device="cuda", **options)
        return list(drawn)

    whole = run()
    state = tmp_path / "state"
    with pytest.raises(KeyboardInterrupt):
        run(state=state, report=stop)
    assert torch.equal(torch.stack(whole[2:]), torch.stack(run(state=state, resume=True)))
