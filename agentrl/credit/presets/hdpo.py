"""HDPO: accuracy and tool efficiency in two channels, each normalised and each with a loss of its own."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import NonNegative, Singleton
from agentrl.credit.stages import Spec

__all__ = ["hdpo"]


def hdpo(
    *,
    variant: Literal["metis", "paper"] = "metis",
    w_acc: NonNegative = 1.0,
    w_tool: NonNegative = 0.15,
    divide_by_std: bool = True,
    epsilon: NonNegative = 1e-6,
    accuracy_weight: NonNegative = 0.9,
    format_weight: NonNegative = 0.1,
    singleton: Singleton | None = None,
) -> Spec:
    """L = w_acc L(A_acc) + w_tool L(A_tool)   (arXiv 2604.08545)

    A_acc compares all episodes of a group; A_tool only the correct ones among themselves, 0 where fewer
    than two are. Apart, the efficiency scale cannot leak into the accuracy. The efficiency loss covers
    the turns with A_tool != 0. Variant "metis" is the released code, in which a group of one keeps its raw
    score as A_acc; "paper" gives it 0. Failure case: in a nearly solved group w_tool A_tool can outweigh the
    small A_acc of a correct episode, which is then punished for its tool calls.
    """
    compared = {
        "id": "group_norm",
        "name": "episode",
        "scale": "std" if divide_by_std else "none",
        "epsilon": epsilon,
    }
    single = singleton or ("raw" if variant == "metis" else "zero")
    accuracy = {"id": "accuracy", "accuracy_weight": accuracy_weight, "format_weight": format_weight}
    return {
        "channel": [
            {
                "name": "accuracy",
                "weight": w_acc,
                "rewards": [accuracy],
                "estimators": [{**compared, "singleton": single}],
            },
            {
                "name": "tool",
                "weight": w_tool,
                "rewards": [{"id": "tool_efficiency"}],
                "estimators": [compared],
                "shapers": [{"id": "nonzero_only"}],
            },
        ]
    }
