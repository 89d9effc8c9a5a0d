"""What `agentrl bench services` measures with: that the games are really played, and the table."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from service_process import COMMAND, REPOSITORY, running_service

from agentrl.errors import ConfigError
from envs.alfworld.settings import Settings
from services._bench.client import Player, play_all, quantiles
from services._bench.connections import BATCH, IN_TURN, OWN, players
from services._bench.load import Load, alfworld_scripts, echo_scripts
from services._bench.processes import OPENENV_PYTHON, running, serving
from services._bench.rows import rows

LOAD = Load(sessions=3, rounds=1, round_s=0.1, games=1, turns=40)


@dataclass
class Result:
    done: bool


class Countdown:
    """A game that ends with its third step."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.left = 0

    async def reset(self, **data: Any) -> Result:
        self.seen.append(data)
        self.left = 3
        return Result(done=False)

    async def step(self, action: dict[str, Any]) -> Result:
        self.seen.append(action)
        self.left -= 1
        return Result(done=self.left == 0)


# What is played --------------------------------------------------------------------------------------------


async def test_a_player_plays_its_script_in_order_and_over_again() -> None:
    game = Countdown()
    script = [{"reset": {"seed": 1}, "actions": [{"n": 0}, {"n": 1}, {"n": 2}], "done": True}]
    player = Player(game, script)
    await player.play_once()
    assert game.seen == [{"seed": 1}, {"n": 0}, {"n": 1}, {"n": 2}]
    await player.play_once()
    assert game.seen[4:] == game.seen[:4]


async def test_resets_are_not_counted_as_steps() -> None:
    game = Countdown()
    script = [{"reset": {}, "actions": [{}, {}, {}], "done": True}]
    player = Player(game, script)
    assert await play_all([player], 0.02) > 0
    resets = -(-len(game.seen) // 4)
    assert len(player.latencies_s) == len(game.seen) - resets
    assert set(quantiles([player])) == {"p50", "p99"}


@pytest.mark.parametrize(("actions", "done"), [(3, False), (2, True)])
async def test_a_server_that_plays_another_game_is_noticed(actions: int, done: bool) -> None:
    player = Player(Countdown(), [{"reset": {}, "actions": [{}] * actions, "done": done}])
    with pytest.raises(RuntimeError, match="another game"):
        await player.play_once()


async def test_scripts_hold_won_games_and_chance_moves() -> None:
    load = Load(sessions=4, games=3)
    scripts = await alfworld_scripts(load, Settings(size="small"))
    episodes = [episode for script in scripts for episode in script]
    assert sorted(episode["reset"]["index"] for episode in episodes) == list(range(12))
    assert [len(script) for script in scripts] == [3, 3, 3, 3]
    assert any(episode["done"] for episode in episodes)
    assert all(0 < len(episode["actions"]) <= load.turns for episode in episodes)
    assert scripts == await alfworld_scripts(load, Settings(size="small"))


# Our own client and servers --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    with running_service(name="services._bench.echo:create_app") as service:
        yield service.url


@pytest.mark.parametrize("way", [BATCH, IN_TURN, OWN])
async def test_every_way_to_travel_plays_the_whole_script(way: str, echo: str) -> None:
    async with contextlib.AsyncExitStack() as stack:
        made = await players(way, echo, echo_scripts(LOAD), stack)
        assert await play_all(made, 0.05) > 0


async def test_the_service_plays_the_very_games_that_were_computed() -> None:
    scripts = await alfworld_scripts(LOAD, Settings(size="small"))
    assert any(episode["done"] for script in scripts for episode in script)
    with running_service("env.size=small") as service:
        async with contextlib.AsyncExitStack() as stack:
            for way in (BATCH, OWN):  # each checks the end of every game
                await players(way, service.url, scripts, stack)


# Processes -------------------------------------------------------------------------------------------------


async def test_a_server_that_ends_is_said_with_the_last_line_of_its_log() -> None:
    program = "import sys; sys.exit('no such thing')"
    with pytest.raises(ConfigError, match=r"the server ended.*last line of its log: no such thing"):
        async with serving([*COMMAND[:1], "-c", program], "the server"):
            pass


async def test_a_process_is_gone_when_its_block_ends() -> None:
    program = "import os; print(os.getpid(), flush=True); input()"
    async with running([*COMMAND[:1], "-c", program], "a process") as lines:
        pid = int(await lines.read(30.0))
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


# The command -----------------------------------------------------------------------------------------------


def test_without_openenv_the_command_says_how_to_get_it(tmp_path: Path) -> None:
    absent = str(tmp_path / "python")
    done = subprocess.run(
        [*COMMAND, "bench", "services", "--only", "wire", "--json"],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), OPENENV_PYTHON: absent},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error["code"] == "bench.no_openenv"
    assert absent in error["message"]
    assert "make bench" in error["message"]


@pytest.mark.slow
def test_the_table_holds_every_comparison_and_its_ratio(
    openenv_interpreter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(OPENENV_PYTHON, str(openenv_interpreter))
    measured = rows(LOAD)
    assert {row["unit"] for row in measured} == {"steps/s", "ms"}
    whats = [row["what"] for row in measured]
    assert whats[:4] == ["alfworld, 3 sessions"] * 2 + ["echo, 3 sessions"] * 2
    assert whats[4:8] == ["alfworld, step p50", "alfworld, step p99", "echo, step p50", "echo, step p99"]
    assert whats[8:] == [f"echo, {BATCH}"] * 3 + [f"alfworld, {BATCH}"] * 3
    for row in measured:
        assert set(row) == {"what", "value", "unit", "baseline", "baseline_value", "ratio"}
        quotient = row["value"] / row["baseline_value"]
        assert row["ratio"] == pytest.approx(quotient if row["unit"] == "steps/s" else 1 / quotient)
