"""OTC: a correct answer is worth more the closer its tool calls are to the fewest that ever sufficed."""

from __future__ import annotations

from math import cos, pi, sin
from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import length_E
from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Memory, Scores
from agentrl.credit.traits import traits

__all__ = ["otc"]


@traits(needs=("correct",))
def otc(
    batch: Batch,
    *,
    variant: Literal["group", "single_sample"] = "group",
    c_max_tool_calls: Positive = 4.0,
    alpha: NonNegative = 1.0,
    memory: Memory,
) -> Scores:
    """R_i = alpha r_tool(m_i, n) correct_i   [E], arXiv 2504.14870

    m_i tool calls of the episode, n the fewest of any correct episode of the task, ever (`memory`:
    {task: n}), brought up to date before anything is scored; c the limit of tool calls.
    single_sample: cos(pi m / (2 m + c)). group: 1 if m = n = 0; cos(pi m / (2 m + c)) if n = 0;
    else sin(pi f / (2 n)) with f = 2 m n / (m + n), so 1 exactly at m = n and less on both sides.

    Failure case: the memory never rises, so one lucky guess without tools pins n = 0 for good and every
    later call costs, needed or not. A wrong answer always scores 0, however cheap it was.
    """
    fewest = {task: float(n) for task, n in memory.items()}
    calls_E = length_E(batch, "tool_calls")
    for episode, m in zip(batch.episodes, calls_E.tolist(), strict=True):
        if episode.correct:
            fewest[episode.task_id] = min(m, fewest.get(episode.task_id, m))
    reward_E = np.zeros(len(batch))
    for i, (episode, m) in enumerate(zip(batch.episodes, calls_E.tolist(), strict=True)):
        if episode.correct:
            n = fewest[episode.task_id] if variant == "group" else 0.0
            reward_E[i] = alpha * _efficiency(m, n, c_max_tool_calls)
    counts = {task: int(n) for task, n in fewest.items()}
    return Scores.of_episodes(
        batch, reward_E, metrics={"tool_calls/mean": float(calls_E.mean())}, memory=counts
    )


def _efficiency(m: float, n: float, c: float) -> float:
    return cos(m * pi / (2 * m + c)) if n == 0 else sin(m * pi / (m + n))
