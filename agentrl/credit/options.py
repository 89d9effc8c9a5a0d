"""Options of a method's file: its keyword-only parameters, checked before anything runs."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import cache
from keyword import iskeyword
from typing import Annotated, Any, Literal, TypeAlias, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from agentrl.config import parse_settings

__all__ = [
    "Fraction",
    "NonNegative",
    "Positive",
    "Singleton",
    "StatisticsOver",
    "check_options",
    "wants_memory",
]

Fraction: TypeAlias = Annotated[float, Field(ge=0, le=1)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0)]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
Singleton: TypeAlias = Literal["zero", "raw"]
StatisticsOver: TypeAlias = Literal["per_episode", "per_turn_row"]


def check_options(function: Callable[..., Any], options: Mapping[str, Any], *, where: str) -> dict[str, Any]:
    """Return the options of a function, defaults filled in.

    Raises:
        ConfigError: an option that does not exist (the message lists those that do) or has a wrong type.
    """
    model = _option_model(function)
    # `lambda` is a word of Python's, so its parameter is called `lambda_`.
    spelled = {f"{name}_" if iskeyword(name) else name: value for name, value in options.items()}
    checked = parse_settings(model, spelled, where=where)
    return {name: getattr(checked, name) for name in model.model_fields}


def wants_memory(function: Callable[..., Any]) -> bool:
    """Whether the function carries state from batch to batch."""
    return "memory" in inspect.signature(function).parameters


@cache
def _option_model(function: Callable[..., Any]) -> type[BaseModel]:
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {
        name: (hints[name], ... if parameter.default is parameter.empty else parameter.default)
        for name, parameter in inspect.signature(function).parameters.items()
        if parameter.kind is parameter.KEYWORD_ONLY and name != "memory"
    }
    config = ConfigDict(
        extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=()
    )
    return create_model(function.__name__, __config__=config, **fields)
