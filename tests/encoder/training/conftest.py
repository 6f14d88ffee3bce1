"""A network that was trained, and one that is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from retrieval_db.encoder import training
from retrieval_db.encoder.network import NetworkEncoder
from tests.encoder.training.colours import coloured, train_network


@pytest.fixture(scope="session")
def trained() -> training.Trained:
    return train_network(coloured(48))


@pytest.fixture
def backbone(mobilenet: Path) -> NetworkEncoder:
    return training.unfitted("mobilenet_v2", weights=mobilenet, changes={"input_size": 32})
