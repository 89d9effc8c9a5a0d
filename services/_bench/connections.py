"""Our own client: how the sessions of one event loop can travel to a service."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import dataclass
from typing import Any

from agentrl.remote.connection import Connection
from services._bench.client import Player
from services._bench.load import Script

__all__ = ["BATCH", "IN_TURN", "OWN", "players"]

BATCH = "all sessions' messages of a moment in one frame"
IN_TURN = "one message at a time"
OWN = "a connection for each session"
TIMEOUT_S = 120.0


async def players(
    way: str, url: str, scripts: list[Script], stack: contextlib.AsyncExitStack
) -> list[Player]:
    """Return players that have played once.

    Args:
        way: BATCH (as `agentrl train` does) and IN_TURN share one connection, OWN does not.
        stack: closes the connections.
    """
    connections: list[Connection] = []
    for _ in range(len(scripts) if way == OWN else 1):
        connections.append(await Connection.open(url))
        stack.push_async_callback(connections[-1].close)
    lock = asyncio.Lock() if way == IN_TURN else None
    made = [
        Player(_Session(connections[place % len(connections)], lock), script)
        for place, script in enumerate(scripts)
    ]
    await asyncio.gather(*(player.play_once() for player in made))
    return made


@dataclass(frozen=True, slots=True)
class _Result:
    done: bool


class _Session:
    """A session with the methods of OpenEnv's client; with a lock it waits until the connection is free."""

    def __init__(self, connection: Connection, lock: asyncio.Lock | None) -> None:
        self._connection = connection
        self._lock = lock
        self._named: dict[str, str] = {}

    async def reset(self, **data: Any) -> _Result:
        """Begin an episode."""
        answer = await self._ask({"type": "reset", "data": data, **self._named})
        self._named = {"session_id": answer["session_id"], "session_key": answer["session_key"]}
        return _Result(answer["done"])

    async def step(self, action: dict[str, Any]) -> _Result:
        """Act."""
        answer = await self._ask({"type": "step", "data": action, **self._named})
        return _Result(answer["done"])

    async def _ask(self, message: dict[str, Any]) -> Any:
        if self._lock is None:
            return await self._connection.ask(message, timeout_s=TIMEOUT_S)
        async with self._lock:
            return await self._connection.ask(message, timeout_s=TIMEOUT_S)
