"""Backbones whose weights travel in the encoder's file: trained or fine-tuned here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

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
    try:
        module, dim = _shape(config["name"], config["feature_dim"], preprocess.channels)
        kinds = {key: value.dtype for key, value in module.state_dict().items()}
        state = {
            key: torch.from_numpy(np.array(value)).to(kinds.get(key, torch.float32))
            for name, value in tensors.items()
            if (key := name.removeprefix("backbone.")) != name
        }
        module.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise FormatError("The weights of this encoder do not fit its network.") from error
    if dim != config["feature_dim"]:
        raise FormatError("The features of this encoder do not fit its network.")
    return Backbone(config["name"], dim, module.eval().requires_grad_(False))


def _shape(name: str, dim: int, channels: int) -> tuple[nn.Module, int]:
    """The network of that name on the device `meta`, where nothing is allocated; and its D."""
    with torch.device("meta"):
        if name == small_cnn.NAME:
            return small_cnn.network(channels, dim), dim
        if name in cifar.NETWORKS:
            return cifar.network(name)
    if name in BACKBONES:
        module, own_dim, _ = skeleton(name)
        return module, own_dim
    raise FormatError(f"There is no network {name!r} in this version: upgrade retrieval-db.")
