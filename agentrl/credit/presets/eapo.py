"""EAPO: rounds of a Markov workspace as samples, discounted from the end."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.stages import Spec

__all__ = ["eapo"]


def eapo(
    *,
    gamma: Fraction = 0.995,
    divisor: Annotated[int, Field(ge=1)] = 1,
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A_{i,t} = (r_{i,t} - mean_g) / (std_g + epsilon) over all rounds of a task's episodes   (2511.07327)

    r = gamma^(T - t) R (reward `eapo`). floor(N / divisor) divisor rounds are learnt from. Failure case:
    a long episode contributes many rounds to the statistics; and see the reward.
    """
    channel = {
        "name": "task",
        "rewards": [{"id": "eapo", "gamma": gamma}],
        "estimators": [
            {"id": "group_norm", "name": "round", "statistics_over": "per_turn_row", "epsilon": epsilon}
        ],
        "shapers": [{"id": "divisor", "divisor": divisor}] if divisor > 1 else [],
    }
    return {"channel": [channel]}
