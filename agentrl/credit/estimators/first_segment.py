"""MT-GRPO: what was earned up to the first tool call belongs to the turns up to it."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import tool_calls_N
from agentrl.credit.norm import groupwise_norm
from agentrl.credit.options import NonNegative
from agentrl.credit.segments import episode_sums
from agentrl.credit.stages import Estimate, Scores

__all__ = ["first_segment"]


def first_segment(scores: Scores, batch: Batch, *, epsilon: NonNegative = 1e-6) -> Estimate:
    """A_{i,t} = (x_i - mean_g) / (std_g + epsilon) for t <= tau_i, else 0,  x_i = sum_{t <= tau_i} r   [N]

    tau_i is the first turn with a tool call; an episode without one takes no part. MT-GRPO, arXiv
    2505.11821 (turn-level part; no released numbers were at hand). Failure case: it knows two segments
    only; with many calls everything after the first is credited by the outcome alone.
    """
    called_N = (tool_calls_N(batch) > 0).astype(np.float64)
    running_N = np.concatenate([[0.0], np.cumsum(called_N)])
    before_N = running_N[:-1] - running_N[batch.offsets_E1[:-1]][batch.episode_N]
    uses_E = episode_sums(called_N, batch.offsets_E1) > 0
    early_N = (before_N == 0) & uses_E[batch.episode_N]
    earned_E = episode_sums(np.where(early_N, scores.turn_N + scores.local_N, 0.0), batch.offsets_E1)
    compared_E = groupwise_norm(earned_E, batch.group_E, member_N=uses_E, epsilon=epsilon)
    return Estimate(np.where(early_N, compared_E[batch.episode_N], 0.0))
