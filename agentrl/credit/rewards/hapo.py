"""HAPO: shorter than the task's shortest correct answer so far is better, longer is worse."""

from __future__ import annotations

from math import cos, pi
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.facts import length_E
from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Memory, Scores
from agentrl.credit.traits import traits

__all__ = ["hapo"]


@traits(needs=("correct",))
def hapo(
    batch: Batch,
    *,
    variant: Literal["cosine", "linear"] = "cosine",
    correct_floor: Annotated[float, Field(ge=-1, le=0)] = -0.7,
    tolerance_ratio_linear: NonNegative = 0.1,
    measure: Literal["tokens", "tool_calls", "turns"] = "tokens",
    history: Literal["min", "mean"] = "min",
    memory: Memory,
) -> Scores:
    """R_i = max(correct_floor, u) if correct else min(0, u)   [E], arXiv 2505.11225

    cosine: u = cos(pi/2 len/h) if len < 2 h else -1. linear: u = 1 - len/h, moved up by the tolerance
    where negative, within [-1, 0] there. h is the shortest correct response of the task before this batch
    ("mean": the average of correct ones), unknown at first: then R = 0. `memory` {task: {length, count}}
    is updated after scoring. An agent's length may be its tool calls or turns.

    Failure case: one lucky short answer sets h for good and all later correct ones are punished.
    """
    length = length_E(batch, measure).tolist()
    reward_E = np.zeros(len(batch))
    for i, episode in enumerate(batch.episodes):
        known = memory.get(episode.task_id)
        if known is not None:
            u = _cosine(length[i], known["length"])
            if variant == "linear":
                u = _linear(length[i], known["length"], tolerance_ratio_linear)
            reward_E[i] = max(correct_floor, u) if episode.correct else min(0.0, u)
    after = {task: (float(past["length"]), int(past["count"])) for task, past in memory.items()}
    for episode, own in sorted(zip(batch.episodes, length, strict=True), key=lambda pair: pair[1]):
        if episode.correct:
            past, count = after.get(episode.task_id, (own, 0))
            merged = min(past, own) if history == "min" else (past * count + own) / (count + 1)
            after[episode.task_id] = (merged, count + 1)
    kept = {task: {"length": past, "count": count} for task, (past, count) in after.items()}
    return Scores.of_episodes(batch, reward_E, memory=kept)


def _cosine(length: float, h: float) -> float:
    return cos(pi / 2 * length / h) if length < 2 * h else (-1.0 if length > h else 0.0)


def _linear(length: float, h: float, tolerance: float) -> float:
    u = 1.0 - length / h if h > 0 else (-1.0 if length > 0 else 0.0)
    return u if u >= 0 else max(-1.0, min(0.0, u + tolerance))
