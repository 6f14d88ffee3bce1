"""Backbones whose weights travel in the encoder's file: trained or fine-tuned here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from retrieval_db.errors import FormatError

from ..names import BACKBONES
from . import cifar, small_cnn
from .backbones import Backbone, skeleton
from .preprocess import Preprocess


def restore(
    config: Mapping[str, Any], preprocess: Preprocess, tensors: Mapping[str, NDArray[Any]]
) -> Backbone:
    """The network of that name with the weights `backbone.*` of an encoder file.

    Raises:
        FormatError: they do not fit.
    """
    name, dim = config["name"], config["feature_dim"]
    state = {
        key.removeprefix("backbone."): torch.from_numpy(np.array(value))
        for key, value in tensors.items()
        if key.startswith("backbone.")
    }
    if name == small_cnn.NAME:
        module = small_cnn.network(preprocess.channels, dim)
    elif name in cifar.NETWORKS:
        module, _ = cifar.network(name)
    elif name in BACKBONES:
        module = skeleton(name)[0].to_empty(device="cpu")
    else:
        raise FormatError(f"There is no network {name!r} in this version: upgrade retrieval-db.")
    try:
        module.load_state_dict(state)
    except RuntimeError as error:
        raise FormatError("The weights of this encoder do not fit its network.") from error
    return Backbone(name, dim, module.eval().requires_grad_(False))
