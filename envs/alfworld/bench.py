"""Measure the ALFWorld engine beside the recorded figures of the reference engine (kitchens)."""

from __future__ import annotations

import statistics
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, TypeVar

from envs.alfworld.engine import Play
from envs.alfworld.game import Game, parse_game
from envs.alfworld.generator import GeneratedGame, generate

__all__ = ["rows"]

T = TypeVar("T")

GAMES = 12
LIVE_EPISODES = 64
# textworld 1.7.0 with alfworld 0.4.2, one process: recorded, because the original is a 415 MB test extra
# that is rarely installed.
REFERENCE = "recorded: textworld 1.7.0, kitchens"


def rows() -> list[dict[str, Any]]:
    """Return what was measured: milliseconds of parse, reset and step, bytes of a live episode."""
    made = _kitchens()
    parse_ms: list[float] = []
    games: list[Game] = []
    for game in made:
        parsed, elapsed_ms = _timed(lambda game=game: parse_game(game.game_json, game.traj_data["task_id"]))
        games.append(parsed)
        parse_ms.append(elapsed_ms)
    reset_ms: list[float] = []
    step_ms: list[float] = []
    for game, source in zip(games, made, strict=True):
        play = Play(game)
        for _ in range(20):
            reset_ms.append(_timed(play.reset)[1])
            for command in [*play.admissible()[:20], *source.game_json["walkthrough"]]:
                step_ms.append(_timed(lambda command=command, play=play: _turn(play, command))[1])
    quantiles = statistics.quantiles(step_ms, n=20)
    return [
        _row("alfworld parse p50", statistics.median(parse_ms), "ms", 959.0),
        _row("alfworld reset p50", statistics.median(reset_ms), "ms", 1077.0),
        _row("alfworld step + admissible p50", statistics.median(step_ms), "ms", 65.0),
        _row("alfworld step + admissible p95", quantiles[-1], "ms", 74.0),
        _row("alfworld live episode", _bytes_per_episode(games[0], made[0]), "bytes", 6_700_000.0),
    ]


def _kitchens() -> list[GeneratedGame]:
    found: list[GeneratedGame] = []
    seed = 0
    while len(found) < GAMES:
        game = generate(seed, size="full", task_type="pick_heat_then_place_in_recep")
        if game.room == "kitchen":
            found.append(game)
        seed += 1
    return found


def _turn(play: Play, command: str) -> list[str]:
    play.step(command)
    return play.admissible()


def _timed(run: Callable[[], T]) -> tuple[T, float]:
    start_s = time.perf_counter()
    result = run()
    return result, (time.perf_counter() - start_s) * 1e3


def _bytes_per_episode(game: Game, source: GeneratedGame) -> float:
    """Return the bytes that one more episode holds on to, in the middle of its game."""
    commands = source.game_json["walkthrough"][:-1]
    _played(game, commands)
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    live = [_played(game, commands) for _ in range(LIVE_EPISODES)]
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return (after - before) / len(live)


def _played(game: Game, commands: list[str]) -> Play:
    play = Play(game)
    for command in commands:
        _turn(play, command)
    return play


def _row(what: str, value: float, unit: str, baseline_value: float) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "baseline": REFERENCE,
        "baseline_value": baseline_value,
        "ratio": baseline_value / value,
    }
