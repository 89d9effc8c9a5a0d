"""IGPO: the outcome, and at every turn how much it told about the gold answer."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Spec

__all__ = ["igpo"]


def igpo(
    *,
    information_gain: Literal["prob_diff", "log_prob_diff"] = "prob_diff",
    normalisation: Literal["joint", "separate"] = "joint",
    divide_by_std: bool = True,
    gamma: Fraction = 1.0,
    outcome_weight: NonNegative = 1.0,
    information_gain_weight: NonNegative = 1.0,
    epsilon: NonNegative = 1e-6,
    zero_gain: Literal["no_reward", "reward"] = "no_reward",
) -> Spec:
    """A_{i,t} = z_{i,t} + gamma A_{i,t+1} over gains and outcomes   (arXiv 2510.14967; see `accumulate`)

    The return is the reward of the last turn, the information gain that of all others; both are compared
    within the task. Groups in which every answer is wrong still teach. Needs gold_logprob at every turn.
    Failure case: with few turns per task the statistics rest on a handful of numbers.
    """
    turn = {
        "id": "accumulate",
        "name": "turn",
        "normalisation": normalisation,
        "scale": "std" if divide_by_std else "none",
        "gamma": gamma,
        "outcome_weight": outcome_weight,
        "information_gain_weight": information_gain_weight,
        "epsilon": epsilon,
    }
    gain = {"id": "information_gain", "information_gain": information_gain, "zero_gain": zero_gain}
    return {"channel": [{"name": "task", "rewards": [{"id": "outcome"}, gain], "estimators": [turn]}]}
