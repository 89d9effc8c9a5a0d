"""DCPO: returns standardised smoothly over all visits of a task."""

from __future__ import annotations

from agentrl.credit.stages import Spec

__all__ = ["dcpo"]


def dcpo(*, divide_by_std: bool = True) -> Spec:
    """A = the smaller of two mixtures of new and cumulative standard scores   (arXiv 2509.02333)

    Formula, memory and failure case are in the estimator `dcpo`. The other half of the method is its
    loss, `dcpo`: clip bounds that widen for rare tokens.
    """
    estimator = {"id": "dcpo", "divide_by_std": divide_by_std}
    return {"channel": [{"name": "task", "rewards": [{"id": "environment"}], "estimators": [estimator]}]}
