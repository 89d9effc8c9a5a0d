"""ASPO: GRPO, shaped towards early tool calls."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Spec

__all__ = ["aspo"]


def aspo(
    *,
    delta: float = -2.0,
    k: Annotated[float, Field(ge=0, lt=1)] = 0.7,
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A_i = z_i + clip(delta (p_i - mean p) / mean L, -k |z_i|, k |z_i|)   (arXiv 2508.19201)

    z is the return's z-score in its group. Shaping the advantage, not the reward: a shaped reward would be
    amplified by the normalisation. Failure case: see the shaper.
    """
    channel = {
        "name": "task",
        "rewards": [{"id": "environment"}],
        "estimators": [{"id": "group_norm", "name": "episode", "epsilon": epsilon}],
        "shapers": [{"id": "aspo", "delta": delta, "k": k}],
    }
    return {"channel": [channel]}
