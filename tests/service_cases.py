"""What tests of the ALFWorld service play, and how they wait for it."""

from __future__ import annotations

import time

from service_process import ServiceProcess

from agentrl.types import Message
from envs.alfworld import AlfWorld
from envs.alfworld.settings import Settings

SMALL = ("env.size=small", "drain_s=0.5")
"""What the service is started with: sessions that a test left open do not keep it from ending."""
SEED = 7
WAIT_S = 30.0


async def expert_episode(seed: int) -> tuple[list[str], list[str]]:
    """Return the commands that win the game of a seed, and all that the game says, played in this process."""
    env = AlfWorld(Settings(size="small", style="plain", instructions=False))
    tasks = env.tasks("train")
    session, expert = env.session(), env.expert(seed=0)
    shown = await session.start(tasks[seed % len(tasks)])
    commands: list[str] = []
    texts = [shown.info["text"]]
    for _ in range(100):
        commands.append(expert.act(shown).text)
        step = await session.step(Message("assistant", commands[-1]))
        if step.observation is None:
            return commands, [*texts, step.info["final_observation"]]
        shown = step.observation
        texts.append(shown.info["text"])
    raise AssertionError(f"the expert did not win the game of seed {seed}")


def wait_for(service: ServiceProcess, **expected: int) -> None:
    """Wait until the service counts what is expected."""
    until = time.monotonic() + WAIT_S
    counted: dict[str, int] = {}
    while time.monotonic() < until:
        _, metadata = service.get("/metadata")
        counted = {name: metadata[name] for name in expected}
        if counted == expected:
            return
        time.sleep(0.05)
    raise AssertionError(f"expected {expected}, got {counted}")


def steps_taken(service: ServiceProcess) -> float:
    """Return how many steps the service has answered."""
    _, metrics = service.get("/metrics")
    (line,) = (line for line in metrics.splitlines() if line.startswith("agentrl_steps_total{"))
    return float(line.rpartition(" ")[2])
