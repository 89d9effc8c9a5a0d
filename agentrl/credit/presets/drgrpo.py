"""Dr. GRPO: GRPO without the division by the group's spread."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, StatisticsOver
from agentrl.credit.presets.grpo import grpo
from agentrl.credit.stages import Spec

__all__ = ["drgrpo"]


def drgrpo(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    invalid_action_penalty: NonNegative = 0.0,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """A_{i,t} = x_{i,t} - mean_g   (arXiv 2503.20783, Sec. 3.2)

    Dividing by the std favours tasks that are nearly always or nearly never solved. The other half of the
    method is in the loss: sum over tokens, divided by a constant (`seq-mean-token-sum-norm`); without it
    long failures are still under-punished.
    """
    return grpo(
        variant=variant,
        divide_by_std=False,
        invalid_action_penalty=invalid_action_penalty,
        statistics_over=statistics_over,
    )
