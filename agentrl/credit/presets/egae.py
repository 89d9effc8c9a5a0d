"""EGAE: GAE that does not take a cut-off episode for a failed one."""

from __future__ import annotations

from typing import Literal

from agentrl.credit.options import Fraction
from agentrl.credit.presets.gae import gae
from agentrl.credit.stages import Spec

__all__ = ["egae"]


def egae(
    *,
    gamma: Fraction = 1.0,
    lambda_: Fraction = 1.0,
    level: Literal["token", "turn"] = "token",
    whiten: bool = True,
) -> Spec:
    """Return `gae` with V(s_l) := V(s_{l-1}) where an episode is truncated   (T-PPO, arXiv 2506.15050)

    Failure case: an agent that stalls until the limit keeps the value it had.
    """
    return gae(gamma=gamma, lambda_=lambda_, level=level, truncated="bootstrap", whiten=whiten)
