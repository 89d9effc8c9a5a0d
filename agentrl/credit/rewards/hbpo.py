"""HBPO: within the budget all correct answers are equal, beyond it every token costs."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, length_E, numbers_E
from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["hbpo"]


@traits(needs=("correct", "metadata.budget"))
def hbpo(
    batch: Batch,
    *,
    max_length: Positive = 4096.0,
    beta: NonNegative = 1.0,
    alpha: NonNegative = 1e-4,
    measure: Literal["tokens", "tool_calls", "turns"] = "tokens",
) -> Scores:
    """R = beta cos(pi b / 2 L) if n <= b;  beta cos(pi n / 2 L) - alpha |n - b| if n > b;  0 if wrong   [E]

    HBPO, arXiv 2507.15844: n the episode's length, b the `budget` of its record, L = max_length;
    n > L scores 0 too. Failure case: an easy task under a large budget pays less than under a small one,
    so compare budgets (`hbpo_intra`), not only episodes.
    """
    length, budget = length_E(batch, measure), numbers_E(batch, "budget")
    angle = np.pi / (2 * max_length)
    beyond = beta * np.cos(angle * length) - alpha * np.abs(length - budget)
    reward_E = np.where(length <= budget, beta * np.cos(angle * budget), beyond)
    return Scores.of_episodes(batch, np.where(correct_E(batch) & (length <= max_length), reward_E, 0.0))
