"""A pipeline in words: read from a config, checked, and written back as TOML."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pydantic import BaseModel, ConfigDict, Field

from agentrl import registry
from agentrl.config import parse_settings
from agentrl.credit.options import check_options, wants_memory
from agentrl.credit.stages import Spec
from agentrl.credit.traits import traits_of
from agentrl.errors import ConfigError

__all__ = ["Channel", "LossTerm", "Stage", "parse_spec", "to_spec", "to_toml"]


@dataclass(frozen=True, slots=True)
class Stage:
    """One method at one place of a pipeline, with every option resolved.

    `weight` and `of` (the names of the rewards that an estimator reads; empty: all) are used by the
    pipeline and never seen by the method.
    """

    id: str
    name: str
    function: Callable[..., Any]
    options: Mapping[str, Any]
    stateful: bool
    weight: float = 1.0
    of: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Channel:
    """Rewards -> estimators -> shapers: one advantage with a loss of its own."""

    name: str
    weight: float
    rewards: tuple[Stage, ...]
    estimators: tuple[Stage, ...]
    shapers: tuple[Stage, ...]


@dataclass(frozen=True, slots=True)
class LossTerm:
    """A term that the loss adds; credit passes it on unread."""

    id: str
    weight: float
    options: Mapping[str, Any]


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class _SpecTable(_Table):
    select: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])
    channel: list[dict[str, Any]] = Field(min_length=1)
    loss_term: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class _ChannelTable(_Table):
    name: str
    weight: float = 1.0
    rewards: list[dict[str, Any]] = Field(min_length=1)
    estimators: list[dict[str, Any]] = Field(min_length=1)
    shapers: list[dict[str, Any]] = Field(default_factory=list[dict[str, Any]])


class _Entry(BaseModel):
    model_config = ConfigDict(extra="allow", strict=True, allow_inf_nan=False)
    id: str
    name: str | None = None

    @property
    def options(self) -> dict[str, Any]:
        # TOML has no null: an option that is None means its default.
        return {name: value for name, value in (self.model_extra or {}).items() if value is not None}


class _RewardEntry(_Entry):
    weight: float = 1.0


class _EstimatorEntry(_RewardEntry):
    of: list[str] = Field(default_factory=list[str])


ENTRIES: Mapping[str, type[_Entry]] = {"credit.reward": _RewardEntry, "credit.estimator": _EstimatorEntry}


def parse_spec(spec: Spec) -> tuple[tuple[Stage, ...], tuple[Channel, ...], tuple[LossTerm, ...]]:
    """Resolve every id and option of a spelled-out pipeline.

    Raises:
        ConfigError: a key or option that does not exist, is missing or has a wrong type.
        UnknownPlugin: an id that names no method; the message lists those that exist.
    """
    table = parse_settings(_SpecTable, spec, where="[credit]")
    select = _stages("credit.select", table.select, "credit.select")
    channels = tuple(_channel(entry, f"credit.channel[{i}]") for i, entry in enumerate(table.channel))
    _check_unique([channel.name for channel in channels], "credit.channel", "channels")
    return select, channels, tuple(_loss_term(e, f"loss.term[{i}]") for i, e in enumerate(table.loss_term))


def _channel(data: Mapping[str, Any], where: str) -> Channel:
    table = parse_settings(_ChannelTable, data, where=where)
    rewards = _stages("credit.reward", table.rewards, f"{where}.rewards")
    estimators = _stages("credit.estimator", table.estimators, f"{where}.estimators")
    known = [reward.name for reward in rewards]
    for estimator in estimators:
        for name in estimator.of:
            if name not in known:
                raise ConfigError(
                    "config.invalid",
                    f"{where}: estimator {estimator.name!r} reads reward {name!r}; "
                    f"the channel has {', '.join(known)}",
                )
    shapers = _stages("credit.shaper", table.shapers, f"{where}.shapers")
    _check_discounts(rewards, estimators, where)
    return Channel(table.name, float(table.weight), rewards, estimators, shapers)


def _check_discounts(rewards: Sequence[Stage], estimators: Sequence[Stage], where: str) -> None:
    for estimator in estimators:
        if not traits_of(estimator.function).discounts or estimator.options.get("gamma", 1.0) == 1.0:
            continue
        for reward in rewards:
            read = not estimator.of or reward.name in estimator.of
            if read and _is_discounted(reward):
                raise ConfigError(
                    "config.invalid",
                    f"{where}: reward {reward.name!r} is discounted already and estimator {estimator.name!r} "
                    f"would discount it again; set gamma = 1.0 in one of them, or list the other rewards in "
                    f"the estimator's `of`",
                )


def _is_discounted(reward: Stage) -> bool:
    return traits_of(reward.function).pays_discounted and reward.options.get("gamma", 1.0) != 1.0


def _stages(kind: str, entries: Sequence[Mapping[str, Any]], where: str) -> tuple[Stage, ...]:
    stages = tuple(_stage(kind, entry, f"{where}[{i}]") for i, entry in enumerate(entries))
    _check_unique([stage.name for stage in stages], where, "entries")
    return stages


def _stage(kind: str, data: Mapping[str, Any], where: str) -> Stage:
    entry = parse_settings(ENTRIES.get(kind, _Entry), data, where=where)
    function = registry.load(kind, entry.id)
    options = check_options(function, entry.options, where=f"{where} ({entry.id})")
    weight = float(entry.weight) if isinstance(entry, _RewardEntry) else 1.0
    of = tuple(entry.of) if isinstance(entry, _EstimatorEntry) else ()
    return Stage(
        entry.id,
        entry.name or entry.id.rpartition(":")[2],
        function,
        options,
        wants_memory(function),
        weight,
        of,
    )


def _loss_term(data: Mapping[str, Any], where: str) -> LossTerm:
    entry = parse_settings(_RewardEntry, data, where=where)
    return LossTerm(entry.id, float(entry.weight), entry.options)


def _check_unique(names: Sequence[str], where: str, what: str) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(
            "config.invalid", f"{where}: two {what} are called {twice[0]!r}; give one of them another name"
        )


def to_spec(
    select: Sequence[Stage], channels: Sequence[Channel], loss_terms: Sequence[LossTerm]
) -> dict[str, Any]:
    """Return the mapping that `parse_spec` reads, every default written out."""
    spec: dict[str, Any] = {}
    if select:
        spec["select"] = [_entry(stage, weighted=False) for stage in select]
    spec["channel"] = [
        {
            "name": channel.name,
            "weight": channel.weight,
            "rewards": [_entry(stage) for stage in channel.rewards],
            "estimators": [_entry(stage) for stage in channel.estimators],
            "shapers": [_entry(stage, weighted=False) for stage in channel.shapers],
        }
        for channel in channels
    ]
    if loss_terms:
        spec["loss_term"] = [{"id": t.id, "weight": t.weight, **t.options} for t in loss_terms]
    return spec


def _entry(stage: Stage, *, weighted: bool = True) -> dict[str, Any]:
    entry: dict[str, Any] = {"id": stage.id, "name": stage.name}
    if weighted:
        entry["weight"] = stage.weight
    if stage.of:
        entry["of"] = list(stage.of)
    return entry | {name: value for name, value in stage.options.items() if value is not None}


def to_toml(spec: Spec) -> str:
    """Write a spelled-out pipeline as the `[credit]` and `[loss]` tables of a config."""
    lines: list[str] = []
    for key, header in (
        ("select", "credit.select"),
        ("channel", "credit.channel"),
        ("loss_term", "loss.term"),
    ):
        for table in cast("Sequence[Mapping[str, Any]]", spec.get(key, ())):
            lines += [f"[[{header}]]", *(f"{name} = {_value(value)}" for name, value in table.items()), ""]
    return "\n".join(lines)


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case int() | float():
            return repr(value)
        case str():
            return json.dumps(value, ensure_ascii=False)
        case Mapping():
            items = cast("Mapping[str, Any]", value).items()
            return "{ " + ", ".join(f"{_key(name)} = {_value(item)}" for name, item in items) + " }"
        case [Mapping(), *_]:
            return "[\n" + "".join(f"  {_value(item)},\n" for item in value) + "]"
        case _:
            return "[" + ", ".join(_value(item) for item in value) + "]"


def _key(name: str) -> str:
    return name if name.replace("-", "_").isidentifier() and name.isascii() else json.dumps(name)
