"""Say which tasks to play next: those that are neither hopeless nor solved."""

from __future__ import annotations

from math import sqrt

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Memory, Selection
from agentrl.credit.traits import traits

__all__ = ["priority"]


@traits(needs=("correct",))
def priority(batch: Batch, *, rho: Fraction = 0.875, floor: NonNegative = 0.05, memory: Memory) -> Selection:
    """weight_q = sqrt(v (1 - v)) + floor,  v = alpha / (alpha + beta) of a Beta tracker per task

    Keeps every episode; `memory` {task: {alpha, beta, weight}} holds the weight with which to draw the
    task next, without replacement. alpha <- rho alpha + success rate, beta <- rho beta + failure rate,
    from 4 and 4. SPO, arXiv 2509.13232 Failure case: a task whose reward is a coin toss has the
    highest weight for ever.
    """
    played: dict[str, list[bool]] = {}
    for episode in batch.episodes:
        played.setdefault(episode.task_id, []).append(episode.correct is True)
    after = dict(memory)
    for task, results in played.items():
        state = memory.get(task, {"alpha": 4.0, "beta": 4.0})
        rate = sum(results) / len(results)
        alpha, beta = rho * float(state["alpha"]) + rate, rho * float(state["beta"]) + 1.0 - rate
        v = alpha / (alpha + beta)
        after[task] = {"alpha": alpha, "beta": beta, "weight": sqrt(v * (1.0 - v)) + floor}
    return Selection(np.ones(len(batch), dtype=np.bool_), memory=after)
