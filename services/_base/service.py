"""What a service says about its environment: the one thing that differs between the services."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field

from agentrl.env import Env
from agentrl.types import Message, Observation, Step

__all__ = ["ActionModel", "EnvService", "ServiceTool"]


class ActionModel(BaseModel):
    """Base of the action models: OpenEnv lets every action carry metadata, which nothing reads."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    metadata: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ServiceTool:
    """One way to act, as an MCP tool. Its arguments are the fields of an action."""

    name: str
    description: str
    arguments: type[BaseModel]
    action: Mapping[str, Any] | None = None
    """A fixed action, for a tool without arguments."""


class EnvService(Protocol):
    """An environment behind the wires.

    `env` plays for the platform's own clients, whose replies and observations are chat messages. `plain`
    plays for everyone else: `reply` and `show` turn its messages into the action and observation models.
    """

    Action: ClassVar[type[ActionModel]]
    Observation: ClassVar[type[BaseModel]]
    name: ClassVar[str]
    description: ClassVar[str]
    tools: ClassVar[tuple[ServiceTool, ...]]

    @property
    def env(self) -> Env:
        """The environment as the settings say."""
        ...

    @property
    def plain(self) -> Env:
        """The same games for whoever sends actions instead of replies."""
        ...

    @property
    def settings(self) -> BaseModel:
        """What the environment was built with; clients can read it."""
        ...

    def reply(self, action: Any) -> Message:
        """Return the reply that does what the action asks."""
        ...

    def show(self, shown: Observation | None, step: Step | None) -> dict[str, Any]:
        """Return the fields of `Observation`: after a reset `step` is None, at the end `shown` is."""
        ...

    def parse(self, text: str) -> dict[str, Any]:
        """Return the action that a model's text asks for."""
        ...

    def text(self, observation: Mapping[str, Any]) -> str:
        """Return what a person or a model reads of an observation."""
        ...
