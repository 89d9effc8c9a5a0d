"""Flow-GRPO: one verified outcome, broadcast to every turn of the planner."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative
from agentrl.credit.presets.grpo import grpo
from agentrl.credit.stages import Spec

__all__ = ["flow_grpo"]


def flow_grpo(
    *,
    variant: Literal["paper", "agentflow"] = "paper",
    divide_by_std: bool = True,
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A_{i,t} = (R_i - mean_g) / (std_g + epsilon) for all t   (AgentFlow, arXiv 2510.05592)

    Variant "agentflow" is the released code: every turn counts in the statistics, so long episodes weigh
    more. The rest is in the loss, averaged over tokens, then turns, then episodes. Failure case: `grpo`'s.
    """
    released = variant == "agentflow"
    return grpo(
        divide_by_std=divide_by_std,
        epsilon=epsilon,
        statistics_over="per_turn_row" if released else "per_episode",
    )
