"""GDPO: compare every reward by itself, then add."""

from __future__ import annotations

from typing import Any, Literal

from agentrl.credit.options import NonNegative, Singleton
from agentrl.credit.stages import Spec

__all__ = ["gdpo"]


def gdpo(
    *,
    variant: Literal["verl", "paper"] = "verl",
    weights: dict[str, float] | None = None,
    divide_by_std: bool = True,
    epsilon: NonNegative = 1e-6,
    singleton: Singleton | None = None,
) -> Spec:
    """A = whiten(sum_k w_k (R_k - mean_g R_k) / (std_g R_k + epsilon))   (arXiv 2601.05242)

    A reward k with little spread keeps its say, which normalising the sum would take away. `weights` are
    {name: w_k} of the records' `rewards`; without them accuracy, format and efficiency weigh 1 each.
    Variant "verl" is the released code, in which a group of one keeps its raw score; "paper" gives it 0.
    Failure case: unlike HDPO, wrong episodes enter the efficiency comparison unless that reward masks them.
    """
    compared: dict[str, Any] = {
        "id": "group_norm",
        "scale": "std" if divide_by_std else "none",
        "epsilon": epsilon,
        "singleton": singleton or ("raw" if variant == "verl" else "zero"),
    }
    weights = weights or {"accuracy": 1.0, "format": 1.0, "efficiency": 1.0}
    channel = {
        "name": "task",
        "rewards": [{"id": "component", "name": name, "key": name} for name in weights],
        "estimators": [{**compared, "name": n, "of": [n], "weight": float(w)} for n, w in weights.items()],
        "shapers": [{"id": "whiten"}],
    }
    return {"channel": [channel]}
