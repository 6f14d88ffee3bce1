"""The page of training repeats the methods and the result files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import training_tables
from retrieval_db.encoder.hashing.methods import METHODS

MACHINE = {"processor": "a processor", "cores": 2, "memory_gib": 4.0}
COMMON = {"command": "python -m it", "date": "2026-01-01", "machine": MACHINE, "commit": "abc"}


def test_the_page_is_as_it_would_be_written() -> None:
    page = training_tables.PAGE.read_text()
    assert page == training_tables.written(page), "Run python -m benchmarks.training_tables."


def test_every_method_and_each_of_its_options_is_named() -> None:
    text = "\n".join(training_tables.methods_part())
    for name, method in METHODS.items():
        assert f"| `{name}` |" in text
        assert method.source in text
        assert all(f"`{option}`" in text for option in method.options)


def test_tables_from_result_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_tables, "RESULTS", tmp_path)
    assert "Not measured yet" in "\n".join(training_tables.results_part())

    def write(name: str, figures: dict[str, Any]) -> None:
        (tmp_path / f"{name}.json").write_text(json.dumps(COMMON | figures))

    lines = [
        {"protocol": "unseen", "method": "itq", "seed": seed, "map": {"12": value, "48": value}}
        for seed, value in ((0, 0.5), (1, 0.7))
    ]
    lines.append({"protocol": "unseen", "method": "baselines", "seed": 0, "map": {"cosine": 0.65}})
    lines = [
        line | {"commit": "abc", "command": f"python -m it --methods {line['method']}"}
        for line in lines
    ]
    write("frozen-x", {"data": "D", "features": "F", "lines": lines})
    write(
        "cifar10-x",
        {
            "protocol": "cvprw15",
            "network": "cifar",
            "device": "a GPU",
            "training_seconds": 9.0,
            "recipe": {"method": "orthohash", "seed": 3, "epochs": 7},
            "softmax": {"accuracy": 0.9123},
            "widths": [{"bits": 12, "map": 0.9}],
        },
    )
    first = {"method": "orthohash", "epochs": 5, "seed": 0, "command": "the first"}
    body = {"method": "dch", "epochs": 4, "seed": 0, "command": "the second", "body": first}
    heads = {
        "protocol": "cvprw15",
        "network": "mobilenet_v2",
        "input_size": 97,
        "device": "a CPU",
        "training_seconds": 2.0,
        "recipe": {"method": "csq", "seed": 0, "epochs": 15},
        "body": body,
        "softmax": {"accuracy": 0.91},
        "widths": [{"bits": 12, "map": 0.8}],
    }
    write("cifar10-y", {**heads, "flip": True})
    write("cifar10-z", {**heads, "whole": True})
    write("clothing-x", {"data": "C", "features": "F", "lines": [{"name": "n", "map": [0.5, 0.6]}]})
    text = "\n".join(training_tables.results_part())
    # All commands that made its lines, not only the last one.
    assert "`python -m it --methods itq`, `python -m it --methods baselines`, 2026-01-01" in text
    assert "| itq | .6000 ± .1000 | .6000 ± .1000 | 2 |" in text
    assert "| cosine (floats) |  | .6500 | 1 |" in text
    assert "| cifar, orthohash, 3 | 7 | .9123 | .9000 |" in text
    assert (
        "| mobilenet_v2 at 97 pixels with flip of dch, heads of csq, 0 | 5 + 4 + 15 | .9100 |"
        in text
    )
    assert "| mobilenet_v2 at 97 pixels, csq, 0 | 5 + 4 + 15 | .9100 | .8000 |" in text
    assert "2 s of training, after `the second`, after `the first`" in text
    assert "| n | .5500 ± .0500 | 2 |" in text
    assert "a GPU, 9 s of training" in text
