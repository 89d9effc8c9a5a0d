"""The client of every server that is measured: sessions in one event loop, OpenEnv's own client in each.

Run by an interpreter that has OpenEnv. Its first line of input says whom to play with and what, as JSON; each
further line is the name of a server, to play with for a round. Every line is answered with one.
"""

# pyright: basic, reportMissingImports=false

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator
from typing import Any

__all__ = ["Player", "play_all", "quantiles"]


class Player:
    """One session, playing its script over and over.

    A script is a list of episodes, `{"reset": {...}, "actions": [{...}], "done": ...}`; the last says whether
    the actions end it. A session is whatever has OpenEnv's `reset(**data)` and `step(action)`.
    """

    def __init__(self, session: Any, script: list[dict[str, Any]]) -> None:
        self._session = session
        self._moves = _moves(script)
        self._length = sum(1 + len(episode["actions"]) for episode in script)
        self.latencies_s: list[float] = []

    async def play_once(self) -> None:
        """Play the whole script, so that the server has seen all of it."""
        for _ in range(self._length):
            await self._move(*next(self._moves))

    async def play(self, until_s: float) -> int:
        """Play until the clock says `until_s`; return the number of steps (resets only take time)."""
        steps = 0
        while time.perf_counter() < until_s:
            kind, data, done = next(self._moves)
            began_s = time.perf_counter()
            await self._move(kind, data, done)
            if kind == "step":
                self.latencies_s.append(time.perf_counter() - began_s)
                steps += 1
        return steps

    async def _move(self, kind: str, data: dict[str, Any], done: bool) -> None:
        result = await (self._session.reset(**data) if kind == "reset" else self._session.step(data))
        if result.done is not done:
            raise RuntimeError(f"done should be {done} after {kind} {data}: the server plays another game")


def _moves(script: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any], bool]]:
    while True:
        for episode in script:
            yield "reset", episode["reset"], False
            last = len(episode["actions"]) - 1
            for place, action in enumerate(episode["actions"]):
                yield "step", action, episode["done"] and place == last


async def play_all(players: list[Player], seconds: float) -> float:
    """Let all play at once, and return their steps per second."""
    began_s = time.perf_counter()
    steps = await asyncio.gather(*(player.play(began_s + seconds) for player in players))
    return sum(steps) / (time.perf_counter() - began_s)


def quantiles(players: list[Player]) -> dict[str, float]:
    """Return the median and the 99th percentile of the seconds that a step took."""
    ordered = sorted(one for player in players for one in player.latencies_s)
    return {name: ordered[int(len(ordered) * share)] for name, share in (("p50", 0.50), ("p99", 0.99))}


async def serve_rounds() -> None:
    """Connect, and play a round whenever asked to."""
    from openenv.core import GenericEnvClient

    loop = asyncio.get_running_loop()
    plan = json.loads(sys.stdin.readline())
    players: dict[str, list[Player]] = {}
    clients: list[Any] = []
    for target in plan["targets"]:
        made = [GenericEnvClient(base_url=target["url"]) for _ in target["scripts"]]
        clients += made
        players[target["name"]] = [Player(*pair) for pair in zip(made, target["scripts"], strict=True)]
        await asyncio.gather(*(client.connect() for client in made))
        await asyncio.gather(*(player.play_once() for player in players[target["name"]]))
    _say({})
    # In a thread, so that pings are answered meanwhile.
    while name := (await loop.run_in_executor(None, sys.stdin.readline)).strip():
        _say({"steps_per_s": await play_all(players[name], plan["round_s"])})
    for client in clients:
        await client.close()
    _say({name: quantiles(all_of_it) for name, all_of_it in players.items()})


def _say(answer: dict[str, Any]) -> None:
    print(json.dumps(answer), flush=True)


def main() -> None:
    """Do what the input says; with uvloop where it is installed."""
    try:
        from uvloop import run
    except ImportError:
        run = asyncio.run
    run(serve_rounds())


if __name__ == "__main__":
    main()
