"""How much is measured, and what every session plays."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any

from agentrl.types import Message
from envs.alfworld import AlfWorld
from envs.alfworld.settings import Settings

__all__ = ["Load", "Script", "alfworld_scripts", "echo_scripts"]

ERROR_RATE = 0.3
CHANCE_RATE = 0.25

Script = list[dict[str, Any]]
"""Episodes, as `client.Player` plays them."""


@dataclass(frozen=True, slots=True)
class Load:
    """How much is measured. A session plays its `games` over and over, each for at most `turns`."""

    sessions: int = 16
    rounds: int = 11
    round_s: float = 0.6
    payload_bytes: int = 1000
    games: int = 2
    turns: int = 60


def echo_scripts(load: Load) -> list[Script]:
    """Return for each session what it sends to an echo."""
    episode: dict[str, Any] = {
        "reset": {},
        "actions": [{"message": "x" * load.payload_bytes}] * load.turns,
        "done": False,
    }
    return [[episode] for _ in range(load.sessions)]


async def alfworld_scripts(load: Load, settings: Settings | None = None) -> list[Script]:
    """Return for each session its games and commands: of an expert who errs, with chance moves between."""
    plain = (settings or Settings()).model_copy(update={"style": "plain", "instructions": False})
    env = AlfWorld(plain)
    made = [await _episode(env, place, load.turns) for place in range(load.sessions * load.games)]
    return [made[first :: load.sessions] for first in range(load.sessions)]


async def _episode(env: AlfWorld, place: int, turns: int) -> dict[str, Any]:
    chance = random.Random(place)
    session, expert = env.session(), env.expert(seed=place, slip_rate=ERROR_RATE)
    shown = await session.start(env.tasks("train")[place])
    actions: list[dict[str, str]] = []
    done = False
    while not done and len(actions) < turns:
        command = expert.act(shown).text
        if chance.random() < CHANCE_RATE:
            command = chance.choice(shown.info["admissible_commands"])
        step = await session.step(Message("assistant", command))
        actions.append({"command": command})
        done = step.terminated
        shown = step.observation or shown
    return {"reset": {"split": "train", "index": place}, "actions": actions, "done": done}
