"""RLOO: an episode against the mean of the others."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, StatisticsOver
from agentrl.credit.stages import Spec

__all__ = ["rloo"]


def rloo(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    invalid_action_penalty: NonNegative = 0.0,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """A_{i,t} = x_{i,t} - mean_{j != i} x_j = (x_{i,t} - mean_g) n / (n - 1)   (arXiv 2402.14740)

    The baseline does not contain the episode itself, so the gradient is unbiased. Variant "paper": n
    episodes, a group of one gives 0. "verl-agent" leaves out a turn, not an episode: n counts turns, so
    the other turns of the same episode stay in its own baseline. Failure case: rewards of very different
    size across tasks, since nothing is divided by a spread.
    """
    released = variant == "verl-agent"
    episode = {
        "id": "group_norm",
        "name": "episode",
        "centre": "leave_one_out",
        "scale": "none",
        "statistics_over": statistics_over or ("per_turn_row" if released else "per_episode"),
        "singleton": "raw" if released else "zero",
    }
    rewards = [{"id": "environment"}, {"id": "invalid_action", "penalty": invalid_action_penalty}]
    return {"channel": [{"name": "task", "rewards": rewards, "estimators": [episode]}]}
