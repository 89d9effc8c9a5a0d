"""MT-GRPO: the outcome for every turn, the turn reward for those up to the first tool call."""

from __future__ import annotations

from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Spec

__all__ = ["mt_grpo"]


def mt_grpo(*, coef: NonNegative = 1.0, epsilon: NonNegative = 1e-6, whiten: bool = True) -> Spec:
    """A_{i,t} = whiten(A^O_i + coef A^T_i 1[t <= tau_i])   (arXiv 2505.11821)

    A^O is the z-score of correctness, A^T that of the rewards paid up to the first tool call, at turn
    tau (`first_segment`). Failure case: an environment that pays nothing before the end leaves GRPO.
    """
    channel = {
        "name": "task",
        "rewards": [{"id": "correctness"}, {"id": "environment"}],
        "estimators": [
            {"id": "group_norm", "name": "outcome", "of": ["correctness"], "epsilon": epsilon},
            {
                "id": "first_segment",
                "name": "turn",
                "of": ["environment"],
                "weight": coef,
                "epsilon": epsilon,
            },
        ],
        "shapers": [{"id": "whiten"}] if whiten else [],
    }
    return {"channel": [channel]}
