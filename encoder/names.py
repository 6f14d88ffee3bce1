"""Names that messages and `--help` list without loading torch."""

from __future__ import annotations

from pathlib import Path

DEFAULT_METHOD = "itq128"
DEFAULT_BACKBONE = "mobilenet_v2"

# Encoders that come with the program, where they do: their names, and the file they are in.
_CIFAR10 = Path(__file__).parent / "shipped" / "cifar10.safetensors"
SHIPPED = {f"cifar10-{bits}": _CIFAR10 for bits in (12, 16, 32, 48, 64, 128) if _CIFAR10.is_file()}

# Of torchvision: networks that end in one linear layer after their features.
BACKBONES = (
    "mobilenet_v2",
    "resnet18",
    "resnet34",
    "resnet50",
    "resnet101",
    "resnet152",
    "vgg11",
    "vgg11_bn",
    "vgg13",
    "vgg13_bn",
    "vgg16",
    "vgg16_bn",
    "vgg19",
    "vgg19_bn",
    "alexnet",
    "convnext_tiny",
    "convnext_small",
    "convnext_base",
    "convnext_large",
)
