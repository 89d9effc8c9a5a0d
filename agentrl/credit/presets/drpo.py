"""DRPO: correct against wrong, short before long among the correct."""

from __future__ import annotations

from agentrl.credit.options import Positive
from agentrl.credit.stages import Spec

__all__ = ["drpo"]


def drpo(
    *,
    tau: Positive = 10.0,
    lambda_: Positive = 0.1,
    max_response_length_for_length_ratio: Positive = 4096.0,
) -> Spec:
    """A_i = w_i / sum_pos w, or -softmax_neg(s_i / tau)   (arXiv 2510.04474; see estimator `drpo`)"""
    estimator = {
        "id": "drpo",
        "tau": tau,
        "lambda_": lambda_,
        "max_response_length_for_length_ratio": max_response_length_for_length_ratio,
    }
    return {"channel": [{"name": "task", "rewards": [{"id": "correctness"}], "estimators": [estimator]}]}
