"""ALFWorld: household tasks as a text game, equal in every text to the original, and 1,000 times faster.

Without data it plays generated games; with `data` those of the real data set. `engine.py` plays, `game.py`
reads games, `layout.py` finds them, `generator.py` makes them, `session.py` is what a rollout talks to.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import ClassVar

from pydantic import BaseModel

from agentrl.env import ExpertReply
from agentrl.types import Observation, Task
from envs.alfworld.expert import Expert, Move, noisy
from envs.alfworld.games import CachedGames, check_split, open_games
from envs.alfworld.session import Session
from envs.alfworld.settings import Settings
from envs.alfworld.style import write_reply

__all__ = ["AlfWorld"]


class AlfWorld:
    """The environment plug-in: shared by every episode of a run, safe from any thread."""

    Settings: ClassVar[type[BaseModel]] = Settings
    version = "1"

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._source = open_games(settings)
        self._games = CachedGames(self._source, settings.cached_games)

    def tasks(self, split: str) -> Sequence[Task]:
        """Return the tasks of train, valid_seen or valid_unseen.

        Raises:
            ConfigError: there is no such split, or no data for it.
        """
        return self._source.tasks(check_split(split))

    def session(self) -> Session:
        """Return a new, unstarted session."""
        return Session(self._settings, self._games)

    def expert(self, *, seed: int, slip_rate: float = 0.0) -> ScriptedExpert:
        """Return a fresh expert that makes deliberate mistakes at a rate from 0 to 1."""
        return ScriptedExpert(self._settings, seed, slip_rate)


class ScriptedExpert:
    """The scripted expert, reading observations and writing replies in the environment's style."""

    def __init__(self, settings: Settings, seed: int, slip_rate: float) -> None:
        self._settings = settings
        self._seed = seed
        self._slip_rate = slip_rate
        self._player: Callable[[str], Move] | None = None

    def act(self, observation: Observation) -> ExpertReply:
        """Return the next reply."""
        if self._player is None:
            expert = Expert(observation.info["grammar"])
            self._player = noisy(expert, random.Random(self._seed), self._slip_rate)
        move = self._player(observation.info["text"])
        text = write_reply(move.command, self._settings.style, think=self._settings.think)
        return ExpertReply(text, slip=move.slipped)
