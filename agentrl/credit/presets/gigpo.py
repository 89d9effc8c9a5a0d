"""GiGPO: episode-level credit plus step-level credit where states repeat."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentrl.credit.options import Fraction, NonNegative, StatisticsOver
from agentrl.credit.stages import Spec

__all__ = ["gigpo"]


def gigpo(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    mode: Literal["mean_std_norm", "mean_norm"] = "mean_std_norm",
    gamma: Fraction = 0.95,
    step_advantage_weight: NonNegative = 1.0,
    epsilon: NonNegative = 1e-6,
    invalid_action_penalty: NonNegative = 0.1,
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """A_{i,t} = A^E_{i,t} + w A^S_{i,t}   (arXiv 2505.10978, Eq. 8)

    A^E is `group_norm` over a task, A^S is `step_norm` over a task's equal states. Variant "paper": each
    episode counts once (Eq. 3) and a group of one gives 0. "verl-agent" is the released code: every turn
    counts in A^E and a group of one keeps its raw score. Where states never repeat it is GRPO.
    Failure case: keys that hold a step counter or a clock never repeat; watch `credit/step/hit_rate`.
    """
    released = variant == "verl-agent"
    scale = "std" if mode == "mean_std_norm" else "none"
    episode = {
        "id": "group_norm",
        "name": "episode",
        "scale": scale,
        "epsilon": epsilon,
        "statistics_over": statistics_over or ("per_turn_row" if released else "per_episode"),
        "singleton": "raw" if released else "zero",
    }
    step = {
        "id": "step_norm",
        "name": "step",
        "weight": step_advantage_weight,
        "gamma": gamma,
        "scale": scale,
        "epsilon": epsilon,
        "similarity_threshold": similarity_threshold,
    }
    rewards = [{"id": "environment"}, {"id": "invalid_action", "penalty": invalid_action_penalty}]
    return {"channel": [{"name": "task", "rewards": rewards, "estimators": [episode, step]}]}
