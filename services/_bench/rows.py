"""Our wire and OpenEnv's, measured side by side: the same client, the same sessions, the same minutes.

Every server is a process of its own on this machine, and the client another. All take turns in short rounds,
so that whatever else the machine does hits all of them; a ratio is the median of the ratios of the rounds.

OpenEnv serves an empty typed environment that echoes 1 KB, as its users run it. Ours are an echo, and real
ALFWorld games, whose every text and list of commands the game computes.
"""

from __future__ import annotations

import contextlib
import json
import statistics
from pathlib import Path
from typing import Any

from services._bench.client import play_all
from services._bench.connections import BATCH, IN_TURN, OWN, players
from services._bench.load import Load, Script, alfworld_scripts, echo_scripts
from services._bench.processes import openenv_python, ours, running, serving

__all__ = ["rows"]

FOLDER = Path(__file__).parent
ECHO, ALFWORLD = "echo", "alfworld"
OPENENV, UNCOMPRESSED = "OpenEnv's empty echo", "OpenEnv's empty echo, messages not compressed"
WARM_UP_ROUNDS = 1
TIMEOUT_S = 120.0

Rates = dict[str, list[float]]


def rows(load: Load | None = None) -> list[dict[str, Any]]:
    """Return what was measured: steps per second, and milliseconds that a step took.

    Raises:
        ConfigError: there is no interpreter with OpenEnv, or a process ended.
    """
    python = openenv_python()
    from uvloop import run

    return run(_measure(load or Load(), python))


async def _measure(load: Load, python: str) -> list[dict[str, Any]]:
    theirs = [python, str(FOLDER / "openenv_echo.py")]
    echo, games = echo_scripts(load), await alfworld_scripts(load)
    async with contextlib.AsyncExitStack() as stack:
        servers: dict[str, tuple[str, list[Script]]] = {}
        for name, command, scripts in (
            (OPENENV, theirs, echo),
            (UNCOMPRESSED, [*theirs, "uncompressed"], echo),
            (ECHO, ours("services._bench.echo:create_app"), echo),
            (ALFWORLD, ours("alfworld"), games),
        ):
            servers[name] = (await stack.enter_async_context(serving(command, name)), scripts)
        client = await stack.enter_async_context(running([python, str(FOLDER / "client.py")], "the client"))
        targets = [{"name": name, "url": url, "scripts": scripts} for name, (url, scripts) in servers.items()]
        await client.ask(json.dumps({"targets": targets, "round_s": load.round_s}), TIMEOUT_S)
        local = {
            (name, way): await players(way, *servers[name], stack)
            for name in (ECHO, ALFWORLD)
            for way in (BATCH, IN_TURN, OWN)
        }
        rates: Rates = {name: [] for name in (*servers, *(_called(*one) for one in local))}
        for _ in range(WARM_UP_ROUNDS + load.rounds):
            for name in servers:
                rates[name].append((await client.ask(name, TIMEOUT_S))["steps_per_s"])
            for one, playing in local.items():
                rates[_called(*one)].append(await play_all(playing, load.round_s))
        latencies_s: dict[str, dict[str, float]] = await client.ask("", TIMEOUT_S)
    return _table(load, {name: values[WARM_UP_ROUNDS:] for name, values in rates.items()}, latencies_s)


def _table(load: Load, rates: Rates, latencies_s: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    table: list[dict[str, Any]] = []
    for name in (ALFWORLD, ECHO):
        what = f"{name}, {load.sessions} sessions"
        table += [_rate_row(what, name, baseline, rates) for baseline in (OPENENV, UNCOMPRESSED)]
    for name in (ALFWORLD, ECHO):
        for quantile in ("p50", "p99"):
            value, baseline = (latencies_s[who][quantile] * 1e3 for who in (name, OPENENV))
            table.append(_row(f"{name}, step {quantile}", value, "ms", OPENENV, baseline, baseline / value))
    for name in (ECHO, ALFWORLD):
        batch, in_turn, own = (_called(name, way) for way in (BATCH, IN_TURN, OWN))
        table += [_rate_row(batch, batch, single, rates) for single in (in_turn, own, name)]
    return table


def _called(name: str, way: str) -> str:
    return f"{name}, {way}"


def _rate_row(what: str, name: str, baseline: str, rates: Rates) -> dict[str, Any]:
    ratio = statistics.median(a / b for a, b in zip(rates[name], rates[baseline], strict=True))
    value, other = statistics.median(rates[name]), statistics.median(rates[baseline])
    shown = _called(baseline, "OpenEnv's client") if baseline in (ECHO, ALFWORLD) else baseline
    return _row(what, value, "steps/s", shown, other, ratio)


def _row(
    what: str, value: float, unit: str, baseline: str, baseline_value: float, ratio: float
) -> dict[str, Any]:
    return {
        "what": what,
        "value": value,
        "unit": unit,
        "baseline": baseline,
        "baseline_value": baseline_value,
        "ratio": ratio,
    }
