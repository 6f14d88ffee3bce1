"""Recipes that no training can follow."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from retrieval_db.encoder.hashing.recipes import FROZEN
from retrieval_db.errors import UsageError


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"method": "sift"}, "Unknown method 'sift'"),
        ({"method": "itq48"}, "without bits: itq, not itq48"),
        ({"method": "phash"}, "ready as they are"),
        ({"bits": ()}, "at least one"),
        ({"bits": (48, 48)}, "named twice"),
        ({"bits": (30,)}, "multiple of 4"),
        ({"options": {"margine": 1.0}}, "no option 'margine'; those it has: scale, margin"),
        ({"method": "latent_ce", "options": {"m": 1.0}}, "those it has: nested"),
        ({"method": "ksh", "options": {"anchors": 0}}, r"anchors=0 is out of range \(whole, 2 to"),
        ({"method": "ksh", "options": {"anchors": 2.5}}, "ksh: anchors=2.5 is out of range"),
        ({"method": "ksh", "options": {"samples": -3}}, "samples=-3 is out of range"),
        ({"method": "itq_cca", "options": {"regularisation": -1}}, r"\(1e-06 to 1,000,000\)"),
        ({"method": "dplm", "options": {"mu": np.nan}}, "dplm: mu=nan is out of range"),
        ({"method": "hashnet", "options": {"growth": -5}}, "growth=-5 is out of range"),
        ({"method": "dch", "options": {"gamma": 0}}, r"gamma=0 is out of range \(0.001 to"),
        ({"method": "triplet", "options": {"margin": 1e308}}, r"margin=1e\+308 is out of range"),
        ({"options": {"margin": np.inf}}, "margin=inf is out of range"),
        ({"options": {"nested": np.nan}}, "nested=nan is out of range"),
        ({"bits": (12, 16), "options": {"nested": 16}}, "16 bits has no prefix of nested=16"),
        ({"epochs": 0}, "epochs must be more than 0"),
        ({"batch_size": 1}, "at least 2 images"),
        ({"learning_rate": -1.0}, "learning rate must be"),
        ({"learning_rate": np.inf}, "learning rate must be a number more than 0, not inf"),
        ({"learning_rate": np.nan}, "learning rate must be a number more than 0, not nan"),
        ({"precision": "float16"}, "float32, bfloat16"),
        ({"optimizer": "lion"}, "sgd, adamw"),
    ],
)
def test_impossible_recipes(change: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        replace(FROZEN, **change)
