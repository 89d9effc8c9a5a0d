"""The settings of the ALFWorld environment."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from envs.alfworld.problem import Grammar
from envs.alfworld.rooms import TASK_TYPES, Size, TaskType

__all__ = ["Settings", "Style"]

Style = Literal["action", "plain", "tool_call"]


class Settings(BaseModel):
    """What `[env] id = "alfworld"` may set.

    `data` names a folder with the real data (what ALFWORLD_DATA names); without it games are generated, of
    `size`, from `seed`. The first `train_games` or `valid_games` of a split are used; None means all there
    are, or 100,000 and 1,000 generated ones.

    `style` says how a reply holds a command: `action` in `<action>` tags (without any, its last 30 characters
    are taken, as verl-agent does, and the turn is invalid), `plain` is the whole reply, `tool_call` a call
    `act(command=...)`. With `think` a reply must hold `<think>...</think>` to be valid. `instructions` tells
    the model all this, `list_admissible` which commands work now. `anchor` is the state key of step-level
    credit: the exact state, or the text that the model saw. `accept_aliases` lets `put X in/on Y` and
    `move X to Y` stand for each other.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    data: Path | None = None
    task_types: tuple[TaskType, ...] = Field(default=TASK_TYPES, min_length=1)
    train_games: int | None = Field(default=None, ge=1, le=1_000_000_000)
    valid_games: int | None = Field(default=None, ge=1, le=1_000_000_000)
    size: Size = "full"
    seed: int = Field(default=0, ge=0, lt=1_000_000_000)
    grammar: Grammar = "new"
    style: Style = "action"
    think: bool = False
    instructions: bool = True
    list_admissible: bool = False
    accept_aliases: bool = False
    anchor: Literal["state", "observation"] = "state"
    success_reward: float = 10.0
    cached_games: int = Field(default=256, ge=1)

    @field_validator("task_types")
    @classmethod
    def _without_repeats(cls, value: tuple[TaskType, ...]) -> tuple[TaskType, ...]:
        return tuple(dict.fromkeys(value))
