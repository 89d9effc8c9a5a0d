"""ALFWorld as a service: household games for OpenEnv, MCP, verl-tool and people, and for our own trainer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI
from pydantic import BaseModel, Field

from agentrl.types import Message, Observation, Step
from envs.alfworld import AlfWorld
from envs.alfworld.settings import Settings as GameSettings
from envs.alfworld.style import read_reply
from services._base.app import create_env_app
from services._base.service import ActionModel, ServiceTool
from services._base.settings import ServiceSettings

__all__ = ["create_app"]

DONE = "The task is done."


class Settings(ServiceSettings):
    """The service's limits, and in `env` which games it plays and how."""

    env: GameSettings = GameSettings()


class Command(ActionModel):
    """One command of the game, such as `go to fridge 1`. What is no command gets `Nothing happens.`"""

    command: str = Field(max_length=100_000)


class Seen(BaseModel):
    """What the game shows."""

    text: str
    admissible_commands: list[str]
    task_type: str
    won: bool
    valid: bool
    """Whether the last command did anything."""


class Nothing(BaseModel):
    """No arguments."""


class Act(BaseModel):
    """The arguments of the tool `act`."""

    command: str = Field(description="for example: go to fridge 1, open fridge 1, take egg 1 from fridge 1")


class AlfWorldService:
    """The environment behind the wires; both environments share one set of games."""

    name: ClassVar[str] = "alfworld"
    description: ClassVar[str] = "Household tasks in text, equal in every word to ALFWorld."
    Action: ClassVar[type[ActionModel]] = Command
    Observation: ClassVar[type[BaseModel]] = Seen
    tools: ClassVar[tuple[ServiceTool, ...]] = (
        ServiceTool("act", "Give the game one command and read what happens.", Act),
        ServiceTool("look", "Look around.", Nothing, {"command": "look"}),
        ServiceTool("inventory", "See what you carry.", Nothing, {"command": "inventory"}),
    )

    def __init__(self, settings: GameSettings) -> None:
        self.settings = settings
        self.env = AlfWorld(settings)
        bare = {"style": "plain", "think": False, "instructions": False, "list_admissible": False}
        # What is shown of a plain game holds no state key: the exact one would be computed for nobody.
        bare["anchor"] = "observation"
        self.plain = AlfWorld(settings.model_copy(update=bare))

    def reply(self, action: Command) -> Message:
        """Return the command as a reply."""
        return Message("assistant", action.command)

    def parse(self, text: str) -> dict[str, Any]:
        """Return the command in `<action>` tags, or the whole text."""
        style = "action" if "<action>" in text else "plain"
        return {"command": read_reply(Message("assistant", text), style, think="</think>" in text).command}

    def show(self, shown: Observation | None, step: Step | None) -> dict[str, Any]:
        """Return what the game shows."""
        valid = step is None or step.action_valid
        if shown is None:
            text = DONE if step is None else step.info.get("final_observation", DONE)
            return {"text": text, "admissible_commands": [], "task_type": "", "won": True, "valid": valid}
        info = shown.info
        return {
            "text": info["text"],
            "admissible_commands": info["admissible_commands"],
            "task_type": info["task_type"],
            "won": info["won"],
            "valid": valid,
        }

    def text(self, observation: Mapping[str, Any]) -> str:
        """Return the game's words."""
        return str(observation["text"])


def create_app(
    settings: Settings | None = None, *, worker: int = 0, workers: int = 1, peer_folder: Path | None = None
) -> FastAPI:
    """Return the application."""
    settings = settings or Settings()
    return create_env_app(
        AlfWorldService(settings.env), settings, worker=worker, workers=workers, peer_folder=peer_folder
    )
