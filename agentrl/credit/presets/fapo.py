"""FAPO: GRPO that does not reward lucky reasoning."""

from __future__ import annotations

from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Spec

__all__ = ["fapo"]


def fapo(*, flaw_penalty: float = 1.0, epsilon: NonNegative = 1e-6) -> Spec:
    """A = (R_i - mean_g) / (std_g + epsilon) of the reward `fapo`   (arXiv 2510.22543)

    Failure case: early in training flawed successes are the only ones, and a penalty of 1 hides them.
    """
    reward = {"id": "fapo", "flaw_penalty": flaw_penalty}
    episode = {"id": "group_norm", "name": "episode", "epsilon": epsilon}
    return {"channel": [{"name": "task", "rewards": [reward], "estimators": [episode]}]}
