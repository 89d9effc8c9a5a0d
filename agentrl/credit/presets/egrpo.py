"""E-GRPO: GRPO with a reward for near misses of a search."""

from __future__ import annotations

from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Spec

__all__ = ["egrpo"]


def egrpo(*, alpha: Fraction = 0.3, epsilon: NonNegative = 1e-6) -> Spec:
    """A = (R_i - mean_g) / (std_g + epsilon) of the reward `egrpo`   (arXiv 2510.24694)

    Truncated or overlong episodes enter the statistics and not the loss. Failure case: see the reward.
    """
    channel = {
        "name": "task",
        "rewards": [{"id": "egrpo", "alpha": alpha}],
        "estimators": [{"id": "group_norm", "name": "episode", "epsilon": epsilon}],
        "shapers": [{"id": "mask_truncated"}],
    }
    return {"channel": [channel]}
