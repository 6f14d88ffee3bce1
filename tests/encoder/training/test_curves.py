"""The curves of a training, and the images that are held out for them."""

from __future__ import annotations

import csv
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from retrieval_db.encoder import training
from retrieval_db.encoder.training import curves
from tests.encoder.training.colours import FEW, coloured, every, train_network


def test_curves(trained: training.Trained, tmp_path: Path) -> None:
    curves.write_csv(trained.curve, tmp_path / "small.csv")
    with (tmp_path / "small.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [epoch.loss for epoch in trained.curve]
    pytest.importorskip("matplotlib", reason="matplotlib is not installed")
    curves.plot(trained.curve, tmp_path / "small.png", "colours")
    with Image.open(tmp_path / "small.png") as picture:
        assert picture.size[0] > 500


def test_held_out_images_are_watched() -> None:
    data = coloured(60)
    rows, held = every(data)[:48], every(data)[48:]
    found = train_network(data, replace(FEW, bits=(8,)), rows=rows, held_out=held)
    for epoch in found.curve:
        assert epoch.validation is not None
        assert 0 <= epoch.validation <= 1
