"""SPO: no groups, one tracked success rate per task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentrl.credit.options import Fraction, NonNegative, Positive
from agentrl.credit.stages import Spec

__all__ = ["spo"]


def spo(
    *,
    d_half: Positive = 0.06,
    rho_min: Annotated[float, Field(ge=0, lt=1)] = 0.875,
    rho_max: Fraction = 0.96,
    prior_successes: NonNegative = 0.0,
    prior_trials: NonNegative = 0.0,
    visits: Literal["batch", "stream"] = "batch",
    whiten: bool = True,
) -> Spec:
    """A = whiten(R - v), v the tracked success rate of the task   (arXiv 2509.13232; see estimator `spo`)

    No group is needed, so slow episodes hold nobody up and a task solved every time costs nothing extra.
    Failure case: whitening shares one baseline among all tasks of a batch.
    """
    tracker = {
        "id": "spo",
        "d_half": d_half,
        "rho_min": rho_min,
        "rho_max": rho_max,
        "prior_successes": prior_successes,
        "prior_trials": prior_trials,
        "visits": visits,
    }
    shapers = [{"id": "whiten"}] if whiten else []
    rewards = [{"id": "environment"}]
    return {"channel": [{"name": "task", "rewards": rewards, "estimators": [tracker], "shapers": shapers}]}
