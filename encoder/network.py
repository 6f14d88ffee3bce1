"""Encoders with a network: a backbone, its preprocessing and a head, frozen."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.codes import binarize
from retrieval_db.encoders import Decode
from retrieval_db.errors import EncoderError, EncoderUnavailable, FormatError, UsageError

from . import checkpoint
from .devices.inference import PRECISIONS, Busy, Runner, resolve_device
from .hashing import fitted
from .hashing.coding import coder
from .hashing.fitted import Head
from .hashing.heads import LinearHead
from .hashing.methods import FEW_IMAGES, METHODS
from .networks import backbones, own
from .networks.backbones import Backbone
from .networks.preprocess import Preprocess


@dataclass(frozen=True)
class NetworkEncoder:
    """Implements `retrieval_db.encoders.Encoder`. Without a head it can only give features.

    The life of one: `create` → `features` of some images → `fit` → `encode` from then on.

    On one CPU the bits of an image depend on nothing but the image: neither on its batch nor
    on the number of threads. Across CPU models and devices float sums differ in the last
    places, which flips a few bits whose outputs are next to 0; in bfloat16 many more
    (`benchmarks.precision`).

    Attributes:
        method: that was asked for, `itq`.
        precision: float32, or bfloat16 (faster on some devices, other bits).
        seed: of the fit.
        device: auto, cuda, mps or cpu; no part of the fingerprint.
        training_sha256: the SHA-256 of each image it learnt from, or its first bytes, uint8
            [N, ≤ 32]; None where that is not known. No part of the fingerprint.
    """

    name: str
    method: str
    bits: int
    backbone: Backbone
    preprocess: Preprocess
    head: Head | None = None
    precision: str = "float32"
    seed: int = 0
    device: str = "auto"
    training_sha256: NDArray[np.uint8] | None = field(default=None, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UsageError(
                f"Unknown precision {self.precision!r}; there are {', '.join(PRECISIONS)}."
            )
        resolve_device(self.device)

    @property
    def fitted(self) -> bool:
        return self.head is not None

    @property
    def feature_dim(self) -> int:
        return self.backbone.feature_dim

    @property
    def advice(self) -> str | None:
        """What the user should know of this fit; None if all is well."""
        head = self.head
        if head is None or METHODS[self.method].fallback is None or head.fitted_on >= FEW_IMAGES:
            return None
        fitted = f"{self.name} was fitted on {head.fitted_on} images only"
        if head.method != self.method:
            fitted += f", too few for {self.method}, and uses {head.method} instead"
        return f"{fitted}. Once there are {FEW_IMAGES} or more: `encoders refit {self.name}`."

    @property
    def config(self) -> dict[str, Any]:
        return {
            "kind": "network",
            "method": self.method,
            "bits": self.bits,
            "backbone": self.backbone.to_config(),
            "preprocess": self.preprocess.to_config(),
            "head": None if self.head is None else self.head.to_config(),
            "precision": self.precision,
            "seed": self.seed,
        }

    @cached_property
    def fingerprint(self) -> str:
        return checkpoint.fingerprint(self.config, self._tensors(self._fitted_head()))

    @cached_property
    def artifact(self) -> bytes | None:
        """Safetensors bytes; None before `fit`."""
        if self.head is None:
            return None
        tensors = self._tensors(self.head)
        if self.training_sha256 is not None:
            tensors[checkpoint.TRAINING_KEY] = self.training_sha256
        return checkpoint.pack(self.name, self.config, tensors)

    def prepare(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize one RGB image: uint8 [C, S, S]."""
        return self.preprocess(image)

    def features(self, batch: NDArray[Any]) -> NDArray[np.float32]:
        """Compute the features, float32 [N, D], of prepared images, uint8 [N, C, S, S]."""
        return self.runner(batch)

    def encode(self, batch: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encode prepared images, uint8 [N, C, S, S].

        Returns:
            features [N, D] float32, and outputs [N, L] float32; bit i is 1 iff output i > 0.

        Raises:
            EncoderError: not fitted.
        """
        self._fitted_head()
        features = self.features(batch)
        return features, self.outputs(features)

    def outputs(self, features: NDArray[np.float32]) -> NDArray[np.float32]:
        """Compute the outputs, float32 [N, L], of features, float32 [N, D].

        Raises:
            EncoderError: not fitted.
        """
        return self._fitted_head().projection(features)

    @property
    def preparer(self) -> Preprocess:
        """What `prepare` does, as an object that can be sent to another process."""
        return self.preprocess

    @cached_property
    def decoder(self) -> Decode | None:
        """Files → what `prepare` makes of their images, None for a file that is not decoded so;
        None where Pillow decodes all of them.

        Raises:
            as `JpegDecoder`.
        """
        if self.preprocess.decoder == "pillow":
            return None
        from .devices.decoding import JpegDecoder

        return JpegDecoder(self.preprocess, resolve_device(self.device))

    @property
    def stream_workers(self) -> int:
        """How many images `encode_stream` computes side by side."""
        return self.runner.workers

    def encode_stream(
        self, batches: Iterable[NDArray[Any]], busy: Busy
    ) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
        """Encode batches of prepared images in order, the next begun before one is handed out.

        Args:
            batches: each uint8 [N, C, S, S].
            busy: told how long the network worked, in seconds, and on how many images.

        Yields:
            features [N, D] float32, and packed codes uint8 [N, ceil(L/8)]: the very bits that
            `encode` gives.

        Raises:
            EncoderError: not fitted.
        """
        head = self._fitted_head().projection
        if self.runner.device.type == "cuda" and isinstance(head, LinearHead):
            codes_of = coder(head, self.runner.device)
            yield from self.runner.stream(  # type: ignore[misc]
                batches, lambda features: (features, codes_of(features)), busy
            )
            return
        for features in self.feature_stream(batches, busy):
            yield features, binarize(self.outputs(features))

    def feature_stream(
        self, batches: Iterable[NDArray[Any]], busy: Busy
    ) -> Iterator[NDArray[np.float32]]:
        """As `encode_stream`, the features only, which need no head."""
        for (features,) in self.runner.stream(batches, lambda features: (features,), busy):
            yield features

    def fit(
        self,
        features: NDArray[np.float32],
        *,
        fallback: bool = True,
    ) -> NetworkEncoder:
        """Fit the head on features, and freeze it: a new encoder.

        Args:
            features: [N, D] float32, from `features`.
            fallback: let `lsh` take over where PCA has too few images, L or less (see
                `advice`).

        Raises:
            EncoderError: fitted already, or the method cannot be fitted on features.
            NotEnoughImages: no images; or, without fallback, fewer than L + 1.
        """
        method = METHODS[self.method]
        if self.head is not None:
            raise EncoderError(f"Encoder {self.name!r} is fitted already, and frozen.")
        if features.ndim != 2 or features.shape[1] != self.feature_dim:
            raise ValueError(f"expected features [N, {self.feature_dim}], not {features.shape}")
        if fallback and method.fallback and len(features) <= self.bits:
            method = METHODS[method.fallback]
        if method.fit is None:
            raise EncoderError(
                f"{method.name} learns from labels: `retrieval-db train --method {method.name}`."
            )
        linear = method.fit(features, self.bits, self.seed)
        return replace(self, head=Head(method.name, linear, len(features)))

    def predict(self, outputs: NDArray[np.float32]) -> list[str]:
        """The most probable label for each row of outputs [N, L]; supervised encoders only.

        Raises:
            EncoderError: it was not trained on labels, or its method names no class.
        """
        head = self._fitted_head()
        if head.classifier is None:
            reason = (
                f"{head.method} learns from pairs of images and names no class"
                if head.classes
                else "it was not trained on labels"
            )
            raise EncoderError(f"Encoder {self.name!r} cannot name labels: {reason}.")
        return head.predict(outputs)

    def classify(self, features: NDArray[np.float32]) -> list[str]:
        """The label for each row of features [N, D] by the softmax trained beside the head:
        the baseline without hashing.

        Raises:
            EncoderError: there is none.
        """
        head = self._fitted_head()
        if head.softmax is None:
            raise EncoderError(f"Encoder {self.name!r} has no softmax on its features.")
        return head.classify(features)

    @cached_property
    def runner(self) -> Runner:
        """The backbone on its device, which computes the features."""
        return Runner(self.backbone.module, self.preprocess, self.device, self.precision)

    def _fitted_head(self) -> Head:
        if self.head is None:
            raise EncoderError(f"Encoder {self.name!r} has no head yet: fit it on images first.")
        return self.head

    def _tensors(self, head: Head) -> dict[str, NDArray[Any]]:
        tensors = head.tensors()
        if self.backbone.sha256 is None:
            for key, value in self.backbone.module.state_dict().items():
                tensors[f"backbone.{key}"] = value.float().cpu().contiguous().numpy()
        return tensors


def restore(
    name: str,
    config: Mapping[str, Any],
    tensors: Mapping[str, NDArray[Any]],
    *,
    weights: Path | None = None,
    device: str = "auto",
    cache_dir: Path | None = None,
) -> NetworkEncoder:
    """Make a fitted encoder from its config and the tensors of its artifact.

    Raises:
        EncoderUnavailable: its backbone's weights are not to be had, or its method is newer.
        FormatError: config and tensors do not fit together, or a weight is no number.
    """
    if config.get("method") not in METHODS:
        raise EncoderUnavailable(
            f"Encoder {name!r} uses the method {config.get('method')!r}, which this program "
            "does not know: upgrade retrieval-db."
        )
    # Such an encoder makes no codes, and would be stored before that is seen.
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise FormatError(
            f"Encoder {name!r}: its weights are no finite numbers, as after a training whose loss "
            "became infinite: train it again with a lower --lr."
        )
    try:
        backbone_config, head_config = config["backbone"], config["head"]
        preprocess = Preprocess.from_config(config["preprocess"])
        if backbone_config["sha256"] is None:
            backbone = own.restore(backbone_config, preprocess, tensors)
        else:
            backbone = backbones.restore(backbone_config, weights, cache_dir)
        encoder = NetworkEncoder(
            name=name,
            method=config["method"],
            bits=config["bits"],
            backbone=backbone,
            preprocess=preprocess,
            head=fitted.restore(head_config, backbone.feature_dim, config["bits"], tensors),
            precision=config["precision"],
            seed=config["seed"],
            device=device,
            training_sha256=checkpoint.training_sha256(tensors),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise FormatError(f"Encoder {name!r}: its config or weights are damaged.") from error
    if encoder.config != config:
        raise FormatError(f"Encoder {name!r}: its config is damaged.")
    return encoder
