"""An environment that does nothing but send back what it gets: what remains is the cost of the wire."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from agentrl.types import Message, Observation, Step, Task
from services._base.app import create_env_app
from services._base.service import ActionModel, ServiceTool
from services._base.settings import ServiceSettings

__all__ = ["create_app"]


class EchoSettings(BaseModel):
    """Nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(ServiceSettings):
    """The service's limits; the environment has no settings."""

    env: EchoSettings = EchoSettings()


class Echo(ActionModel):
    """Text to send back."""

    message: str


class Echoed(BaseModel):
    """The text that was sent."""

    message: str


class EchoSession:
    """An episode without an end."""

    async def start(self, task: Task) -> Observation:
        """Say nothing."""
        return Observation((Message("user", ""),))

    async def step(self, reply: Message) -> Step:
        """Say what was said."""
        return Step(Observation((Message("user", reply.content),)))

    async def close(self) -> None:
        """Hold on to nothing."""


class EchoEnv:
    """The environment: one task, played by as many sessions as there are."""

    Settings: ClassVar[type[BaseModel]] = EchoSettings
    version = "1"

    def __init__(self, settings: EchoSettings) -> None:
        self._settings = settings

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the one task, of every split."""
        return (Task("echo", "echo", split=split),)

    def session(self) -> EchoSession:
        """Return a new session."""
        return EchoSession()


class EchoService:
    """The environment behind the wires."""

    name: ClassVar[str] = "echo"
    description: ClassVar[str] = "Sends back what it gets."
    Action: ClassVar[type[ActionModel]] = Echo
    Observation: ClassVar[type[BaseModel]] = Echoed
    tools: ClassVar[tuple[ServiceTool, ...]] = (ServiceTool("echo", "Get a text back.", Echo),)

    def __init__(self, settings: EchoSettings) -> None:
        self.settings = settings
        self.env = self.plain = EchoEnv(settings)

    def reply(self, action: Echo) -> Message:
        """Return the text as a reply."""
        return Message("assistant", action.message)

    def parse(self, text: str) -> dict[str, Any]:
        """Return the text as an action."""
        return {"message": text}

    def show(self, shown: Observation | None, step: Step | None) -> dict[str, Any]:
        """Return the text."""
        return {"message": "" if shown is None else shown.messages[0].content}

    def text(self, observation: Mapping[str, Any]) -> str:
        """Return the text."""
        return str(observation["message"])


def create_app(
    settings: Settings | None = None, *, worker: int = 0, workers: int = 1, peer_folder: Path | None = None
) -> FastAPI:
    """Return the application."""
    settings = settings or Settings()
    return create_env_app(
        EchoService(settings.env), settings, worker=worker, workers=workers, peer_folder=peer_folder
    )
