"""A service that says hostile things, takes two texts for an action, and fails when it is told to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from agentrl.errors import ConfigError
from agentrl.types import Message, Observation, Step, Task
from services._base.app import create_env_app
from services._base.service import ActionModel
from services._base.settings import ServiceSettings

__all__ = ["HOSTILE", "create_app"]

HOSTILE = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 2'><b>bold</b>"


class NoSettings(BaseModel):
    """Nothing to set."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Settings(ServiceSettings):
    """The service's limits."""

    env: NoSettings = NoSettings()


class Line(ActionModel):
    """What to say, and what to say aside."""

    say: str | None = None
    aside: str | None = Field(default=None, description="for the audience")
    loudness: int | None = None


class Heard(BaseModel):
    """What was heard."""

    text: str
    markup: str
    lines: str
    applause: int
    valid: bool
    won: bool


class StageSession:
    """An episode: `stop` ends it badly, `crash` breaks it, an empty line is no action."""

    async def start(self, task: Task) -> Observation:
        """Say something hostile."""
        return Observation((Message("user", HOSTILE),))

    async def step(self, reply: Message) -> Step:
        """Say it back."""
        said = reply.content
        if said == "crash":
            raise RuntimeError(f"the stage collapsed {HOSTILE}")
        if said == "stop":
            return Step(None, reward=-1.5, terminated=True, info={"said": said})
        shown = Observation((Message("user", said),), info={"applause": len(said)})
        return Step(shown, action_valid=bool(said.strip()))

    async def close(self) -> None:
        """Go home."""


class Stage:
    """The environment: two tasks in one split."""

    Settings: ClassVar[type[BaseModel]] = NoSettings
    version: ClassVar[str] = "1"

    def __init__(self, settings: NoSettings) -> None:
        self._settings = settings

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks."""
        if split != "train":
            raise ConfigError("env.unknown_split", "the stage has train", {"existing": ["train"]})
        return tuple(Task(f"{HOSTILE} {number}", "stage", split=split) for number in range(2))

    def session(self) -> StageSession:
        """Return a new session."""
        return StageSession()


class StageService:
    """The environment behind the wires."""

    name = "stage"
    description = HOSTILE
    Action = Line
    Observation = Heard
    tools = ()

    def __init__(self, settings: NoSettings) -> None:
        self.settings = settings
        self.env = self.plain = Stage(settings)

    def reply(self, action: Line) -> Message:
        """Return the texts as a reply."""
        return Message(
            "assistant", "\n".join(text for text in (action.say, action.aside) if text is not None)
        )

    def parse(self, text: str) -> dict[str, Any]:
        """Return the text as an action."""
        return {"say": text}

    def show(self, shown: Observation | None, step: Step | None) -> dict[str, Any]:
        """Return what was heard."""
        valid = step is None or step.action_valid
        rest = {"markup": HOSTILE, "lines": "one\n  two", "valid": valid, "won": False}
        if shown is None:
            return {"text": "Curtain.", "applause": 0, **rest}
        return {"text": shown.messages[0].content, "applause": shown.info.get("applause", 0), **rest}

    def text(self, observation: Mapping[str, Any]) -> str:
        """Return the text."""
        return str(observation["text"])


def create_app(
    settings: Settings | None = None, *, worker: int = 0, workers: int = 1, peer_folder: Path | None = None
) -> FastAPI:
    """Return the application."""
    settings = settings or Settings()
    return create_env_app(
        StageService(settings.env), settings, worker=worker, workers=workers, peer_folder=peer_folder
    )
