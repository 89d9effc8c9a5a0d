"""GAE: a critic's advantages, whitened over the batch."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import Fraction
from agentrl.credit.stages import Spec

__all__ = ["gae"]


def gae(
    *,
    gamma: Fraction = 1.0,
    lambda_: Fraction = 1.0,
    level: Literal["token", "turn"] = "token",
    truncated: Literal["fail", "bootstrap"] = "fail",
    whiten: bool = True,
) -> Spec:
    """A = whiten(sum_l (gamma lambda)^l d_{j+l})   (arXiv 1506.02438; see estimator `gae`)

    Needs the critic's values in the records. Failure case: whitening gives an even batch a signal.
    """
    estimator = {"id": "gae", "gamma": gamma, "lambda_": lambda_, "level": level, "truncated": truncated}
    channel = {
        "name": "task",
        "rewards": [{"id": "environment"}],
        "estimators": [estimator],
        "shapers": [{"id": "whiten"}] if whiten else [],
    }
    return {"channel": [channel]}
