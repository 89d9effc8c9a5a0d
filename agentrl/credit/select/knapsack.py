"""Plan how many rollouts each task deserves next time, within a budget."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E
from agentrl.credit.options import Fraction
from agentrl.credit.segments import FloatArray
from agentrl.credit.stages import Memory, Selection
from agentrl.credit.traits import traits
from agentrl.errors import ConfigError

__all__ = ["knapsack"]


@traits(needs=("correct",))
def knapsack(
    batch: Batch,
    *,
    budget: Annotated[int, Field(ge=1)] | None = None,
    min_per_task: Annotated[int, Field(ge=0)] = 2,
    max_per_task: Annotated[int, Field(ge=1)] = 128,
    floor_rate: Fraction = 0.0,
    memory: Memory,
) -> Selection:
    """Maximise sum_q V(N_q, p_q), V = (1 - p^N - (1 - p)^N) p (1 - p)^2, with sum N_q = budget

    and min_per_task <= N_q <= max_per_task: Knapsack RL, arXiv 2509.25849, solved exactly. p is
    the success rate of the task at this visit, budget by default the number of episodes here. Keeps every
    episode; `memory` {task: {success_rate, rollouts}} is the plan for the next visit. A p of 0 or 1 is
    worth nothing and gets the minimum; `floor_rate` is taken for a lower p, so that the unsolved are tried.

    Failure case: p is the rate of an older policy, and a task that was unlucky once is starved for long.
    """
    numbers: dict[str, int] = {}
    task_E = np.array([numbers.setdefault(e.task_id, len(numbers)) for e in batch.episodes], dtype=np.int64)
    rate_Q = np.bincount(task_E, weights=correct_E(batch)) / np.bincount(task_E)
    total = len(batch) if budget is None else budget
    if not len(rate_Q) * min_per_task <= total <= len(rate_Q) * max_per_task:
        raise ConfigError(
            "credit.knapsack",
            f"knapsack cannot give {total} rollouts to {len(rate_Q)} tasks with {min_per_task} to "
            f"{max_per_task} each; change budget, min_per_task or max_per_task",
        )
    value_QN = _values(np.maximum(rate_Q, floor_rate), min_per_task, max_per_task)
    plan, best = _allocate(value_QN, total - min_per_task * len(rate_Q))
    kept = {
        task: {"success_rate": float(rate_Q[q]), "rollouts": min_per_task + plan[q]}
        for task, q in numbers.items()
    }
    keep_E = np.ones(len(batch), dtype=np.bool_)
    return Selection(keep_E, {"value": best, "rollouts": float(total)}, {**memory, **kept})


def _values(rate_Q: FloatArray, low: int, high: int) -> FloatArray:
    p, n = rate_Q[:, None], np.arange(low, high + 1)[None, :]
    return (1.0 - p**n - (1.0 - p) ** n) * p * (1.0 - p) ** 2


def _allocate(value_QN: FloatArray, spare: int) -> tuple[list[int], float]:
    best_B = np.full(spare + 1, -np.inf)
    best_B[0] = 0.0
    chosen: list[list[int]] = []
    for value_N in value_QN:
        steps = min(len(value_N), spare + 1)
        choice_BN = np.full((spare + 1, steps), -np.inf)
        for extra in range(steps):
            choice_BN[extra:, extra] = best_B[: spare + 1 - extra] + value_N[extra]
        chosen.append(choice_BN.argmax(axis=1).tolist())
        best_B = choice_BN.max(axis=1)
    left, plan = spare, list[int]()
    for picks in reversed(chosen):
        plan.append(picks[left])
        left -= picks[left]
    return plan[::-1], float(best_B[spare])
