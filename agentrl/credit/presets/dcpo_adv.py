"""DCPO's advantage, under the name that tells it from DCPO's loss."""

from __future__ import annotations

from agentrl.credit.presets.dcpo import dcpo
from agentrl.credit.stages import Spec

__all__ = ["dcpo_adv"]


def dcpo_adv(*, divide_by_std: bool = True) -> Spec:
    """Return `dcpo`; formula (arXiv 2509.02333), memory and failure case are in the estimator `dcpo`."""
    return dcpo(divide_by_std=divide_by_std)
