"""From a decoded image to the array a network takes; travels with the weights."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from retrieval_db.errors import FormatError, UsageError

INTERPOLATIONS = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
DECODERS = ("pillow", "torchcodec", "nvjpeg")
# Settings that came later, with what held before: configs leave them out where it still does.
LATER = {"flip": False, "decoder": "pillow"}


@dataclass(frozen=True)
class Preprocess:
    """How a network wants its images.

    Attributes:
        input_size: S, the side of the square input in pixels.
        mean, std: per channel, for values in [0, 1]; one channel means greyscale, three RGB.
        interpolation: of the antialiased resize: bilinear, bicubic or, by Pillow, lanczos.
        crop: side of the central square that is kept, as a share of the shorter side;
            None squeezes the whole image into the square.
        flip: whether the features are the mean of the image's and its mirror image's. Mirrored
            copies get the same code then, and the work doubles.
        decoder: of JPEGs: pillow; torchcodec, and torch resizes, on the processor wherever the
            network runs; or nvjpeg, and torch resizes, on the network's GPU, which must be CUDA's
            (see `devices.decoding`).
    """

    input_size: int = 224
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    interpolation: str = "bilinear"
    crop: float | None = 0.875
    flip: bool = False
    decoder: str = "pillow"

    def __post_init__(self) -> None:
        if not 1 <= self.input_size <= 4096:
            raise UsageError(f"The input size must be 1 to 4096 pixels, not {self.input_size}.")
        if len(self.mean) != len(self.std) or len(self.mean) not in (1, 3):
            raise UsageError("Mean and std need one number, or three (R, G, B), each.")
        if not np.isfinite((*self.mean, *self.std)).all() or min(self.std) <= 0:
            raise UsageError("Mean must be finite and std greater than 0.")
        if self.interpolation not in INTERPOLATIONS:
            raise UsageError(
                f"Unknown interpolation {self.interpolation!r}; there are "
                f"{', '.join(INTERPOLATIONS)}."
            )
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UsageError(f"The crop must be in (0, 1], not {self.crop}.")
        if not isinstance(self.flip, bool):
            raise UsageError(f"Flip must be true or false, not {self.flip!r}.")
        if self.decoder not in DECODERS:
            raise UsageError(f"Unknown decoder {self.decoder!r}; there are {', '.join(DECODERS)}.")
        if self.decoder != "pillow" and (self.interpolation == "lanczos" or self.channels != 3):
            raise UsageError(f"{self.decoder} has no lanczos here, and no greyscale: take pillow.")

    @property
    def channels(self) -> int:
        return len(self.mean)

    def __call__(self, image: Image.Image) -> NDArray[np.uint8]:
        """Resize one image: uint8 [C, S, S]. Mean and std are applied where the network runs."""
        mode = "L" if self.channels == 1 else "RGB"
        if image.mode != mode:
            image = image.convert(mode)
        if self.decoder != "pillow":
            return self._by_torch(image)
        box: tuple[float, float, float, float] | None = None
        if self.crop is not None:
            # Cropping inside the resize avoids rounding the crop to whole pixels.
            side = self.crop * min(image.size)
            left, top = (image.width - side) / 2, (image.height - side) / 2
            box = (left, top, left + side, top + side)
        size = (self.input_size, self.input_size)
        resized = image.resize(size, INTERPOLATIONS[self.interpolation], box=box)
        return _planes(resized)

    def _by_torch(self, image: Image.Image) -> NDArray[np.uint8]:
        import torch

        from .resizing import resized

        pixels = torch.from_numpy(_planes(image))
        return resized(pixels, self.input_size, self.crop, self.interpolation).numpy()

    def changed(
        self,
        *,
        input_size: int | None = None,
        mean: float | Sequence[float] | None = None,
        std: float | Sequence[float] | None = None,
        flip: bool | None = None,
        decoder: str | None = None,
    ) -> Preprocess:
        """A copy with these options; a single number for mean or std counts for each channel."""
        return replace(
            self,
            input_size=self.input_size if input_size is None else input_size,
            mean=self.mean if mean is None else _per_channel(mean, self.channels),
            std=self.std if std is None else _per_channel(std, self.channels),
            flip=self.flip if flip is None else flip,
            decoder=self.decoder if decoder is None else decoder,
        )

    def to_config(self) -> dict[str, Any]:
        config = {**asdict(self), "mean": list(self.mean), "std": list(self.std)}
        for name, usual in LATER.items():  # so it was written before there was a choice
            if config[name] == usual:
                del config[name]
        return config

    @staticmethod
    def from_config(config: Mapping[str, Any], base: Preprocess | None = None) -> Preprocess:
        """Read `to_config`'s dict; with `base`, what is missing in it comes from there.

        Raises:
            FormatError: unknown, missing or impossible settings.
        """
        names = {field.name for field in fields(Preprocess)}
        if unknown := set(config) - names:
            raise FormatError(f"Unknown preprocessing settings: {', '.join(sorted(unknown))}.")
        if base is None and (missing := names - set(config) - set(LATER)):
            raise FormatError(f"Missing preprocessing settings: {', '.join(sorted(missing))}.")
        values = dict(config)
        try:
            for key in values.keys() & {"mean", "std"}:
                values[key] = _per_channel(values[key], base.channels if base else 3)
            return replace(base or Preprocess(), **values)
        except (TypeError, ValueError, UsageError) as error:
            raise FormatError(f"Impossible preprocessing settings: {error}") from error


def read_settings(weights: Path, base: Preprocess) -> Preprocess:
    """The settings in `FILE.json` beside a weights file, over `base`; `base` without that file.

    Raises:
        FormatError: the file is not a JSON object of preprocessing settings.
    """
    path = weights.with_name(weights.name + ".json")
    if not path.is_file():
        return base
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} is not readable JSON: {error}") from error
    if not isinstance(config, dict):
        raise FormatError(f'{path} must hold a JSON object such as {{"input_size": 224}}.')
    try:
        return Preprocess.from_config(config, base)
    except FormatError as error:
        raise FormatError(f"{path}: {error}") from error


def _planes(image: Image.Image) -> NDArray[np.uint8]:
    """An image as uint8 [C, H, W]."""
    pixels = np.asarray(image, dtype=np.uint8).reshape(image.height, image.width, -1)
    return np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _per_channel(value: float | Sequence[float], channels: int) -> tuple[float, ...]:
    values = (value,) * channels if isinstance(value, int | float) else tuple(value)
    return tuple(float(number) for number in values)
