"""A fitted head with what belongs to it, to and from the tensors of an encoder file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .heads import ACTIVATIONS, Classifier, Float32, LinearHead
from .kernels import KernelHead

Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Head:
    """A fitted head, and where it comes from.

    Attributes:
        method: that fitted it; a fallback may differ from the encoder's method.
        projection: features [N, D] → outputs [N, L].
        fitted_on: how many images it was fitted on.
        classifier: outputs [N, L] → class scores [N, C]; None where the method has none.
        classes: the C labels; supervised methods only.
        softmax: features [N, D] → class scores [N, C]: a softmax that was trained beside the
            head and did not touch it, the baseline without any hashing.
        options: the method's options, where it has some.
    """

    method: str
    projection: LinearHead | KernelHead
    fitted_on: int
    classifier: Classifier | None = None
    classes: tuple[str, ...] = ()
    softmax: LinearHead | None = None
    options: tuple[tuple[str, float], ...] = ()

    def to_config(self) -> dict[str, Any]:
        """As JSON. What is as in the simplest head is left out."""
        config: dict[str, Any] = {
            "method": self.method,
            "normalize": True,
            "fitted_on": self.fitted_on,
            "classes": list(self.classes),
        }
        if isinstance(self.projection, KernelHead):
            config |= {"kernel": self.projection.gamma}
        else:
            config["normalize"] = self.projection.normalize
        # Older files hold a classifier after a sigmoid wherever there are classes.
        activation = None if self.classifier is None else self.classifier.activation
        if self.classes and activation != "sigmoid":
            config["activation"] = activation
        if self.softmax is not None:
            config["softmax"] = True
        if self.options:
            config["options"] = dict(self.options)
        return config

    def tensors(self) -> dict[str, NDArray[Any]]:
        """The weights under their names in an encoder file."""
        found: dict[str, NDArray[Any]] = {}
        if isinstance(self.projection, KernelHead):
            found["head.anchors"] = self.projection.anchors
        layers = {
            "head": self.projection,
            "classifier": None if self.classifier is None else self.classifier.linear,
            "softmax": self.softmax,
        }
        for name, layer in layers.items():
            if layer is not None:
                found[f"{name}.weight"], found[f"{name}.bias"] = layer.weight, layer.bias
        return found

    def halved(self) -> Head:
        """The same head with weights that half precision holds exactly."""

        def rounded(array: Float32) -> Float32:
            return array.astype(np.float16).astype(np.float32)

        def layer(given: LinearHead) -> LinearHead:
            return replace(given, weight=rounded(given.weight), bias=rounded(given.bias))

        projection = self.projection
        if isinstance(projection, KernelHead):
            arrays = map(rounded, (projection.anchors, projection.weight, projection.bias))
            anchors, weight, bias = arrays
            projection = KernelHead(anchors, projection.gamma, weight, bias)
        else:
            projection = layer(projection)
        classifier = self.classifier
        return replace(
            self,
            projection=projection,
            classifier=classifier and replace(classifier, linear=layer(classifier.linear)),
            softmax=self.softmax and layer(self.softmax),
        )

    def predict(self, outputs: Float32) -> list[str]:
        """The most probable label for each row of outputs [N, L].

        Raises:
            ValueError: there is no classifier.
        """
        if self.classifier is None:
            raise ValueError("this head names no classes")
        return [self.classes[index] for index in self.classifier(outputs).argmax(axis=1)]

    def classify(self, features: Float32) -> list[str]:
        """The most probable label for each row of features [N, D], by the softmax.

        Raises:
            ValueError: there is none.
        """
        if self.softmax is None:
            raise ValueError("no softmax was trained beside this head")
        return [self.classes[index] for index in self.softmax(features).argmax(axis=1)]


def restore(config: Mapping[str, Any], dim: int, bits: int, tensors: Tensors) -> Head:
    """Make a head from `Head.to_config` and `Head.tensors`.

    Raises:
        KeyError, TypeError, ValueError: they do not fit together.
    """
    classes = tuple(config["classes"])
    projection: LinearHead | KernelHead
    if "kernel" in config:
        anchors = _float32(tensors, "head.anchors", (None, dim))
        weight = _float32(tensors, "head.weight", (len(anchors), bits))
        bias = _float32(tensors, "head.bias", (bits,))
        projection = KernelHead(anchors, float(config["kernel"]), weight, bias)
    else:
        projection = _linear(tensors, "head", (dim, bits), config["normalize"])
    classifier = softmax = None
    activation = config.get("activation", "sigmoid")
    if classes and activation is not None:
        if activation not in ACTIVATIONS:
            raise ValueError(f"unknown activation {activation!r}")
        layer = _linear(tensors, "classifier", (bits, len(classes)), False)
        classifier = Classifier(layer, activation)
    if config.get("softmax"):
        softmax = _linear(tensors, "softmax", (dim, len(classes)), config["normalize"])
    return Head(
        config["method"],
        projection,
        config["fitted_on"],
        classifier,
        classes,
        softmax,
        tuple(config.get("options", {}).items()),
    )


def _linear(tensors: Tensors, prefix: str, shape: tuple[int, int], normalize: bool) -> LinearHead:
    weight = _float32(tensors, f"{prefix}.weight", shape)
    return LinearHead(weight, _float32(tensors, f"{prefix}.bias", shape[1:]), normalize)


def _float32(tensors: Tensors, name: str, shape: tuple[int | None, ...]) -> Float32:
    """The tensor of that name and shape."""
    tensor = tensors[name]
    if tensor.dtype != np.float32:
        raise ValueError(f"{name} is {tensor.dtype}, not float32")
    if tensor.ndim != len(shape) or any(
        wanted not in (None, size) for wanted, size in zip(shape, tensor.shape, strict=True)
    ):
        raise ValueError(f"{name} has shape {tensor.shape}, not {shape}")
    return tensor
