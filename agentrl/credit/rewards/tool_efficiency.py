"""HDPO's efficiency: fewer tool calls are better, among correct episodes only."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, length_E
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["tool_efficiency"]


@traits(needs=("correct",))
def tool_efficiency(batch: Batch) -> Scores:
    """R_i = 1 / (m_i + 1) for a correct episode with m_i tool calls; wrong ones have none   [E]

    HDPO, arXiv 2604.08545: r_tool. A wrong episode is no member of the comparison (`member_N`),
    which is not a reward of 0. Failure case: tools that are free and needed are taxed all the same.
    """
    correct = correct_E(batch)
    reward_E = np.where(correct, 1.0 / (length_E(batch, "tool_calls") + 1.0), 0.0)
    return Scores.of_episodes(
        batch,
        reward_E,
        member_N=correct[batch.episode_N],
        metrics={"qualifying_share": float(correct.mean())},
    )
