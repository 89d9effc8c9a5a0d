"""HAPO: correctness plus a length reward that remembers the shortest correct answer."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Spec

__all__ = ["hapo"]


def hapo(
    *,
    variant: Literal["cosine", "linear"] = "cosine",
    weight: NonNegative = 1.0,
    correct_floor: Annotated[float, Field(ge=-1, le=0)] = -0.7,
    tolerance_ratio_linear: NonNegative = 0.1,
    measure: Literal["tokens", "tool_calls", "turns"] = "tokens",
    history: Literal["min", "mean"] = "min",
    epsilon: NonNegative = 1e-6,
) -> Spec:
    """A = z-score within the group of correct_i + weight R^len_i   (arXiv 2505.11225; see reward `hapo`)

    Failure case: in an all-correct group the length is the only signal, however small its weight.
    """
    length = {
        "id": "hapo",
        "weight": weight,
        "variant": variant,
        "correct_floor": correct_floor,
        "tolerance_ratio_linear": tolerance_ratio_linear,
        "measure": measure,
        "history": history,
    }
    episode = {"id": "group_norm", "name": "episode", "epsilon": epsilon}
    rewards = [{"id": "correctness"}, length]
    return {"channel": [{"name": "task", "rewards": rewards, "estimators": [episode]}]}
