"""HBPO: episodes under several length budgets, compared within and across them."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Spec

__all__ = ["hbpo"]


def hbpo(
    *,
    max_length: Positive = 4096.0,
    beta: NonNegative = 1.0,
    alpha: NonNegative = 1e-4,
    measure: Literal["tokens", "tool_calls", "turns"] = "tokens",
) -> Spec:
    """A_i = (mean_budget R - f(b_i)) + (R_i - mean_g) / std_g   (arXiv 2507.15844)

    The first term ("intra") is `hbpo_intra`, the second ("inter") compares with the whole group; unbiased
    std, no epsilon, 0 for a constant group. Failure case: see `hbpo_intra`.
    """
    reward = {"id": "hbpo", "max_length": max_length, "beta": beta, "alpha": alpha, "measure": measure}
    estimators = [
        {"id": "hbpo_intra", "name": "intra", "max_length": max_length, "beta": beta},
        {"id": "group_norm", "name": "inter", "epsilon": 0.0},
    ]
    return {"channel": [{"name": "task", "rewards": [reward], "estimators": estimators}]}
