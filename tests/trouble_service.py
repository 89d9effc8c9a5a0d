"""A third party's service whose environment does whatever goes wrong on request: a fake, real wires."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict, Field

from agentrl.errors import ConfigError, ToolError
from agentrl.types import Message, Observation, Step, Task
from services._base.app import create_env_app
from services._base.service import ActionModel, ServiceTool
from services._base.settings import ServiceSettings

__all__ = ["TROUBLE", "Settings", "Trouble", "TroubleService", "create_app"]

TROUBLE = "tests.trouble_service:create_app"
SPLITS = ("train", "hang", "raise", "slow", "bad_close", "slow_close")
PRIVATE = "the password is in drawer 7"
"""Stands in what the environment raises."""


class Trouble:
    """The environment. A split says what happens at start and end, an action what happens at a step."""

    class Settings(BaseModel):
        """None."""

        model_config = ConfigDict(extra="forbid")

    version: ClassVar[str] = "trouble-1"

    def __init__(self, settings: BaseModel | None = None) -> None:
        self.open: set[TroubleSession] = set()

    def tasks(self, split: str) -> Sequence[Task]:
        """Return a thousand tasks."""
        if split not in SPLITS:
            raise ConfigError("env.unknown_split", f"there is no split {split!r}: use {', '.join(SPLITS)}")
        return [Task(f"{split}-{n}", "trouble", split, split, n, {}) for n in range(1000)]

    def session(self) -> TroubleSession:
        """Return a session."""
        return TroubleSession(self)


class TroubleSession:
    """One episode. It is in `Trouble.open` from its start to its close."""

    def __init__(self, env: Trouble) -> None:
        self._env = env
        self._task: Task | None = None
        self.steps = 0

    async def start(self, task: Task) -> Observation:
        """Begin: the split may be `hang`, `raise` or `slow`."""
        self._task = task
        self._env.open.add(self)
        if task.split == "hang":
            await asyncio.sleep(3600)
        if task.split == "raise":
            raise ValueError(PRIVATE)
        if task.split == "slow":
            await asyncio.sleep(0.2)
        return self._shown("begun")

    async def step(self, reply: Message) -> Step:
        """Do what the reply says, e.g. `sleep 0.1`; what says nothing special is echoed."""
        self.steps += 1
        word, _, rest = reply.content.partition(" ")
        text, info, over = reply.content, dict[str, Any](), False
        if word == "sleep":
            await asyncio.sleep(float(rest))
        elif word == "hang":
            await asyncio.sleep(3600)
        elif word == "stubborn":
            await self._stubborn(float(rest))
        elif word == "raise":
            raise ValueError(PRIVATE)
        elif word == "tool_error":
            raise ToolError(PRIVATE)
        elif word == "big":
            text = "x" * int(rest)
        elif word == "junk":
            info = {"junk": object()}
        elif word == "half":
            text = "half a character: \ud800"
        elif word == "census":
            text = str(len(self._env.open))
        elif word == "stop":
            over = True
        shown = self._shown(text)
        return Step(None if over else shown, 1.0, over, True, 0, over or None, True, info)

    async def close(self) -> None:
        """End: the split may be `bad_close` or `slow_close`."""
        if self not in self._env.open:
            return
        assert self._task is not None
        if self._task.split == "slow_close":
            await asyncio.sleep(0.3)
        self._env.open.discard(self)
        if self._task.split == "bad_close":
            raise ValueError(PRIVATE)

    def _shown(self, text: str) -> Observation:
        assert self._task is not None
        said = f"{self._task.task_id} after {self.steps}: {text}"
        return Observation((Message("user", said),), said, info={"text": said})

    async def _stubborn(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            try:
                await asyncio.sleep(until - time.monotonic())
            except asyncio.CancelledError:
                continue


class Settings(ServiceSettings):
    """The service's limits."""

    env: Trouble.Settings = Trouble.Settings()
    broken: bool = False
    """Whether the service cannot be built at all."""


class Word(ActionModel):
    """What is to happen."""

    do: str = Field(max_length=1_000_000)


class Happened(BaseModel):
    """What happened."""

    text: str
    valid: bool
    extra: Any = None


class TroubleService:
    """The environment behind the wires."""

    name = "trouble"
    description = "Does whatever goes wrong."
    Action = Word
    Observation = Happened
    tools = (ServiceTool("do", "Have something happen.", Word),)

    def __init__(self) -> None:
        self.settings = Trouble.Settings()
        self.env = self.plain = Trouble()

    def reply(self, action: Word) -> Message:
        """Return the word as a reply."""
        return Message("assistant", action.do)

    def parse(self, text: str) -> dict[str, Any]:
        """Return the text as an action."""
        return {"do": text}

    def show(self, shown: Observation | None, step: Step | None) -> dict[str, Any]:
        """Return what happened."""
        extra = None if step is None else step.info.get("junk")
        return {"text": "over" if shown is None else shown.info["text"], "valid": True, "extra": extra}

    def text(self, observation: Mapping[str, Any]) -> str:
        """Return what happened, in words."""
        return str(observation["text"])


def create_app(
    settings: Settings | None = None, *, worker: int = 0, workers: int = 1, peer_folder: Path | None = None
) -> FastAPI:
    """Return the application."""
    settings = settings or Settings()
    if settings.broken:
        raise ConfigError("trouble.broken", "there is nothing to serve; bring something")
    return create_env_app(TroubleService(), settings, worker=worker, workers=workers, peer_folder=peer_folder)
