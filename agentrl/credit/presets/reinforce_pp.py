"""REINFORCE++: centre in the group or not at all, then scale over the batch."""

from __future__ import annotations

from typing import Any, Literal

from agentrl.credit.options import NonNegative, StatisticsOver
from agentrl.credit.stages import Spec

__all__ = ["reinforce_pp"]


def reinforce_pp(
    *,
    variant: Literal["paper", "verl-agent"] = "paper",
    baseline: Literal["group", "none"] = "group",
    epsilon: NonNegative = 1e-8,
    invalid_action_penalty: NonNegative = 0.0,
    statistics_over: StatisticsOver | None = None,
) -> Spec:
    """A = (c - mean_batch c) / sqrt(var_batch c + epsilon), c_{i,t} = x_{i,t} - mean_g   (arXiv 2501.03262)

    The group gives the baseline, the batch gives the scale, so a group of nearly equal episodes cannot
    blow up its own differences. Batch statistics weigh a turn by its trainable tokens. `baseline` "none"
    takes c = x: one sample per task is enough. Variant "verl-agent": every turn counts in the group's
    mean and a group of one keeps its raw score. Failure case: see `whiten`; also, after token weighting
    the mean within a group is no longer 0.
    """
    released = variant == "verl-agent"
    centred: dict[str, Any] = {
        "id": "group_norm",
        "name": "episode",
        "scale": "none",
        "statistics_over": statistics_over or ("per_turn_row" if released else "per_episode"),
        "singleton": "raw" if released else "zero",
    }
    channel = {
        "name": "task",
        "rewards": [{"id": "environment"}, {"id": "invalid_action", "penalty": invalid_action_penalty}],
        "estimators": [centred if baseline == "group" else {"id": "score", "name": "episode"}],
        "shapers": [{"id": "whiten", "epsilon": epsilon}],
    }
    return {"channel": [channel]}
