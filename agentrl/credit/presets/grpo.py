"""GRPO: an episode against the mean of its group, in units of the group's spread."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, StatisticsOver
from agentrl.credit.stages import Spec

__all__ = ["grpo"]


def grpo(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    divide_by_std: bool = True,
    epsilon: NonNegative = 1e-6,
    invalid_action_penalty: NonNegative = 0.0,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """A_{i,t} = (x_{i,t} - mean_g) / (std_g + epsilon)   (arXiv 2402.03300, Sec. 4.1.2; see `group_norm`)

    Variant "paper": each episode counts once and a group of one gives 0. "verl-agent" is the released
    multi-turn code: every turn counts and a group of one keeps its raw score. Failure case: every turn of
    an episode gets the same credit, so fifty turns share the blame for one bad one.
    """
    released = variant == "verl-agent"
    episode = {
        "id": "group_norm",
        "name": "episode",
        "scale": "std" if divide_by_std else "none",
        "epsilon": epsilon,
        "statistics_over": statistics_over or ("per_turn_row" if released else "per_episode"),
        "singleton": "raw" if released else "zero",
    }
    rewards = [{"id": "environment"}, {"id": "invalid_action", "penalty": invalid_action_penalty}]
    return {"channel": [{"name": "task", "rewards": rewards, "estimators": [episode]}]}
