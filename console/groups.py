"""Options that commands take together: a dataclass, and one parameter of the command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, fields, is_dataclass
from functools import wraps
from inspect import Parameter
from typing import Annotated, Any, get_type_hints

import typer

from .options import (
    DecoderOption,
    FlipOption,
    InputSizeOption,
    MeanOption,
    StdOption,
    WeightsOption,
)


@dataclass(frozen=True)
class Preprocessing:
    """How a network gets its images; what is not given stays as it is."""

    input_size: InputSizeOption = None
    mean: MeanOption = None
    std: StdOption = None
    flip: FlipOption = False
    decoder: DecoderOption = None


@dataclass(frozen=True)
class Network(Preprocessing):
    """The network that an encoder begins with, and its input."""

    backbone: Annotated[
        str | None, typer.Option(help="A torchvision network (default: mobilenet_v2).")
    ] = None
    weights: WeightsOption = None


def grouped(command: Callable[..., None]) -> Callable[..., None]:
    """Let a command have dataclasses of options: Typer sees their fields in their place."""
    groups: dict[str, type[Any]] = {}
    parameters: list[Parameter] = []
    for parameter in inspect.signature(command, eval_str=True).parameters.values():
        group = parameter.annotation
        if not is_dataclass(group):
            parameters.append(parameter)
            continue
        assert isinstance(group, type)
        groups[parameter.name] = group
        hints = get_type_hints(group, include_extras=True)
        for field in fields(group):
            parameters.append(
                Parameter(
                    field.name,
                    Parameter.KEYWORD_ONLY,
                    default=field.default,
                    annotation=hints[field.name],
                )
            )

    @wraps(command)
    def flat(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{field.name: given.pop(field.name) for field in fields(group)})
        command(**given)

    flat.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    flat.__annotations__ = {one.name: one.annotation for one in parameters}
    return flat
