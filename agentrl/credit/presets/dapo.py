"""DAPO: GRPO on groups that can teach, with a price on length near the limit."""

from __future__ import annotations

from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Spec

__all__ = ["dapo"]


def dapo(
    *,
    max_length: Positive = 20480.0,
    buffer: Positive = 4096.0,
    factor: NonNegative = 1.0,
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A = (x_i - mean_g) / (std_g + epsilon), x_i = R_i + overlong_i   (arXiv 2503.14476)

    Groups whose returns are all equal are left out. The rest of the method is in the loss: clip-higher
    0.2 / 0.28, token-mean over the batch, no KL. Failure case: see `overlong` and `dynamic_sampling`.
    """
    overlong = {"id": "overlong", "max_length": max_length, "buffer": buffer, "factor": factor}
    channel = {
        "name": "task",
        "rewards": [{"id": "environment"}, overlong],
        "estimators": [{"id": "group_norm", "name": "episode", "epsilon": epsilon}],
    }
    return {"select": [{"id": "dynamic_sampling"}], "channel": [channel]}
