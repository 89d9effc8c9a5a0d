"""The optimal token baseline over several turns."""

from __future__ import annotations

from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Spec

__all__ = ["otb"]


def otb(*, handle_zero_tail: bool = True, uses_is_weight: bool = False, epsilon: NonNegative = 1e-8) -> Spec:
    """A_{j,k} = G_{j,k} - B_k, token by token   (verl; formula and failure case in the estimator `otb`)"""
    estimator = {
        "id": "otb",
        "handle_zero_tail": handle_zero_tail,
        "uses_is_weight": uses_is_weight,
        "epsilon": epsilon,
    }
    return {"channel": [{"name": "task", "rewards": [{"id": "environment"}], "estimators": [estimator]}]}
