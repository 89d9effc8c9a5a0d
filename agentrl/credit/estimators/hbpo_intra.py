"""HBPO: did the episodes of a budget live up to it?"""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import numbers_E
from agentrl.credit.norm import group_stats
from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Estimate, Scores
from agentrl.credit.traits import traits

__all__ = ["hbpo_intra"]


@traits(needs=("metadata.budget",))
def hbpo_intra(
    scores: Scores, batch: Batch, *, max_length: Positive = 4096.0, beta: NonNegative = 1.0
) -> Estimate:
    """A_i = mean of R over the group's episodes with budget b_i, less beta cos(pi b_i / 2 L)   [N]

    HBPO, arXiv 2507.15844: at most 0, and 0 if all of them answer correctly within the budget.
    Deliberately not relative: a group in which all are wrong gets less than 0. Failure case: an
    unsolvable task pushes down whatever the agent does.
    """
    budget_E = numbers_E(batch, "budget")
    pairs: dict[tuple[int, float], int] = {}
    keys = zip(batch.group_E.tolist(), budget_E.tolist(), strict=True)
    label_E = np.array([pairs.setdefault(key, len(pairs)) for key in keys], dtype=np.int64)
    mean_E = group_stats(scores.episode_E, label_E).mean_G[label_E]
    expected_E = beta * np.cos(np.pi / (2 * max_length) * budget_E)
    return Estimate((mean_E - expected_E)[batch.episode_N])
