"""OTC: reward correct answers that took few tool calls."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, Positive, Singleton
from agentrl.credit.stages import Spec

__all__ = ["otc"]


def otc(
    *,
    variant: Literal["group", "single_sample"] = "group",
    c_max_tool_calls: Positive = 4.0,
    alpha: NonNegative = 1.0,
    divide_by_std: bool = True,
    epsilon: NonNegative = 1e-6,
    singleton: Singleton = "zero",
) -> Spec:
    """A = (R_i - mean_g) / (std_g + epsilon) of the reward `otc`   (arXiv 2504.14870)

    Variant "group" is OTC-GRPO: the fewest calls of the task are remembered. "single_sample" is OTC-PPO:
    the cosine alone, and the score itself as the advantage, so that one episode per task is enough; a
    critic (`gae`) or `whiten` can follow it. Failure case: see the reward; also, once a group is solved at
    equal cost throughout, nothing is left to learn from it.
    """
    reward = {"id": "otc", "variant": variant, "c_max_tool_calls": c_max_tool_calls, "alpha": alpha}
    compared = {
        "id": "group_norm",
        "name": "episode",
        "scale": "std" if divide_by_std else "none",
        "epsilon": epsilon,
        "singleton": singleton,
    }
    estimator = compared if variant == "group" else {"id": "score", "name": "episode"}
    return {"channel": [{"name": "task", "rewards": [reward], "estimators": [estimator]}]}
