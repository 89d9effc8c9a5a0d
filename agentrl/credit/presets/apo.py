"""APO: learn when an instant answer is enough."""

from __future__ import annotations

from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Spec

__all__ = ["apo"]


def apo(
    *,
    tau: Fraction = 0.5,
    alpha: NonNegative = 2.0,
    instant_mode: str = "instant",
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A = (R_i - mean_g) / (std_g + epsilon) of the reward `apo`   (A2FM, arXiv 2510.12838)

    Failure case: see the reward; forced episodes are compared with free ones although they had no choice.
    """
    reward = {"id": "apo", "tau": tau, "alpha": alpha, "instant_mode": instant_mode}
    episode = {"id": "group_norm", "name": "episode", "epsilon": epsilon}
    return {"channel": [{"name": "task", "rewards": [reward], "estimators": [episode]}]}
