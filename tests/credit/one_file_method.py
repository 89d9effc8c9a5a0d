"""A method in one file, as a third party writes it: fewest tool calls per task, remembered (compare OTC).

R_i = correct_i * n / max(m_i, 1), m_i tool calls, n the fewest that ever solved the task (at least 1).
"""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Memory, Scores, Shaped, Spec

__all__ = ["preset"]


def frugal(batch: Batch, *, memory: Memory) -> Scores:
    fewest = dict(memory)
    calls = [max(sum(t.tool_calls for t in e.turns), 1) for e in batch.episodes]
    for episode, m in zip(batch.episodes, calls, strict=True):
        if episode.correct:
            fewest[episode.task_id] = min(m, fewest.get(episode.task_id, m))
    reward = [fewest[e.task_id] / m if e.correct else 0.0 for e, m in zip(batch.episodes, calls, strict=True)]
    return Scores.of_episodes(batch, np.array(reward), member_N=None, memory=fewest)


def correct_only(shaped: Shaped, scores: Scores, batch: Batch) -> Shaped:
    correct_E = np.array([bool(e.correct) for e in batch.episodes])
    return Shaped(shaped.terms, shaped.credited_N & correct_E[batch.episode_N])


def preset(*, efficiency_weight: float = 0.5) -> Spec:
    here = __name__
    accuracy = {"name": "accuracy", "rewards": [{"id": "environment"}], "estimators": [{"id": "group_norm"}]}
    efficiency = {
        "name": "efficiency",
        "weight": efficiency_weight,
        "rewards": [{"id": f"{here}:frugal"}],
        "estimators": [{"id": "group_norm", "scale": "none"}],
        "shapers": [{"id": f"{here}:correct_only"}],
    }
    return {"channel": [accuracy, efficiency], "loss_term": [{"id": "entropy", "weight": 0.01, "high": 2.0}]}
