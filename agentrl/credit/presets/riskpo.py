"""RiskPO: risk-averse credit for bundles of tasks."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Spec

__all__ = ["riskpo"]


def riskpo(
    *,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    beta: Annotated[float, Field(gt=0, le=1)] = 0.8,
    omega: NonNegative = 0.5,
    eta: Fraction = 0.1,
) -> Spec:
    """A_i by where a bundle's return lies among the quantiles   (arXiv 2510.00911; see the estimator)"""
    estimator = {"id": "riskpo", "alpha": alpha, "beta": beta, "omega": omega, "eta": eta}
    return {"channel": [{"name": "task", "rewards": [{"id": "environment"}], "estimators": [estimator]}]}
