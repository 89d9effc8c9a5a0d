"""BNPO: success rates, normalised by a Beta distribution that follows the batch."""

from __future__ import annotations

from agentrl.credit.stages import Spec

__all__ = ["bnpo"]


def bnpo() -> Spec:
    """A_i = (R_i - p_g) / f(p_g)   (arXiv 2506.02864; formula and failure case in the estimator `bnpo`)"""
    return {"channel": [{"name": "task", "rewards": [{"id": "correctness"}], "estimators": [{"id": "bnpo"}]}]}
