"""REINFORCE++-baseline: the name under which verl and its forks know `reinforce_pp`."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, StatisticsOver
from agentrl.credit.presets.reinforce_pp import reinforce_pp
from agentrl.credit.stages import Spec

__all__ = ["reinforce_pp_baseline"]


def reinforce_pp_baseline(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    epsilon: NonNegative = 1e-8,
    invalid_action_penalty: NonNegative = 0.0,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """Return `reinforce_pp` with its group baseline; formula, source and failure case are there."""
    return reinforce_pp(
        variant=variant,
        baseline="group",
        epsilon=epsilon,
        invalid_action_penalty=invalid_action_penalty,
        statistics_over=statistics_over,
    )
