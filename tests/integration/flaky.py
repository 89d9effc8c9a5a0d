"""Generated ALFWorld games whose sessions hang, or break, when a test asks for it.

AGENTRL_TEST_SESSIONS  how many sessions of a process play; the next ones hang in their first step
settings.fails_after   steps after which a task's first session breaks, the next one works, and so on
settings.any_reward    pay for any reply, by its text: something to learn from for a model that knows nothing
"""

from __future__ import annotations

import asyncio
import itertools
import os
from collections import defaultdict
from dataclasses import replace
from typing import Any, ClassVar
from zlib import crc32

from pydantic import BaseModel

from agentrl.types import Message, Observation, Step, Task
from envs.alfworld import AlfWorld
from envs.alfworld.session import Session
from envs.alfworld.settings import Settings

__all__ = ["FlakyAlfWorld", "MuteAlfWorld"]


class FlakySettings(Settings):
    fails_after: int | None = None
    any_reward: bool = False


class FlakyAlfWorld(AlfWorld):
    Settings: ClassVar[type[BaseModel]] = FlakySettings

    def __init__(self, settings: FlakySettings) -> None:
        super().__init__(settings)
        self.fails_after, self.any_reward = settings.fails_after, settings.any_reward
        self.opened: defaultdict[str, Any] = defaultdict(itertools.count)
        self.sessions = itertools.count()
        self.enough = float(os.environ.get("AGENTRL_TEST_SESSIONS", "inf"))

    def session(self) -> Session:
        return FlakySession(super().session(), self)  # type: ignore[return-value]


class MuteAlfWorld:
    """The same games without an expert."""

    Settings: ClassVar[type[BaseModel]] = Settings
    version: ClassVar[str] = "1"

    def __init__(self, settings: Settings) -> None:
        games = AlfWorld(settings)
        self.tasks, self.session = games.tasks, games.session


class FlakySession:
    def __init__(self, session: Session, env: FlakyAlfWorld) -> None:
        self.session, self.env = session, env
        self.left: float = float("inf")
        self.hangs = next(env.sessions) >= env.enough

    async def start(self, task: Task) -> Observation:
        if self.env.fails_after is not None and next(self.env.opened[task.task_id]) % 2 == 0:
            self.left = self.env.fails_after
        return await self.session.start(task)

    async def step(self, reply: Message) -> Step:
        if self.hangs:
            await asyncio.Event().wait()
        if self.left <= 0:
            raise ConnectionError("the simulator went away")
        self.left -= 1
        step = await self.session.step(reply)
        return replace(step, reward=crc32(reply.content.encode()) % 5 / 4) if self.env.any_reward else step

    async def close(self) -> None:
        await self.session.close()
