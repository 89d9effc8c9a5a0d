"""PPO's clipped surrogate with dual clipping; with other bounds and token-mean it is DAPO's loss."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.errors import ConfigError
from agentrl.loss.base import LossInputs, TokenLosses

__all__ = ["PPO"]


@dataclass(frozen=True, slots=True)
class PPO:
    """Maximise min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A), and for A < 0 never less than c·A.

    PPO (1707.06347, eq. 7) has ε_low = ε_high = 0.2; DAPO (2503.14476, eq. 8) raises ε_high to 0.28. The
    dual clip c > 1 (1912.09729, eq. 5) bounds the loss of tokens that the policy has moved towards
    although they were bad; `dual_clip=None` turns it off. Same values as verl's
    `compute_policy_loss_vanilla`.
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        """Refuse bounds for which the surrogate makes no sense."""
        if not 0 <= self.clip_low <= 1:
            raise ConfigError("loss.option", f"ppo: clip_low must lie in [0, 1], got {self.clip_low}")
        if self.clip_high < 0:
            raise ConfigError("loss.option", f"ppo: clip_high must not be negative, got {self.clip_high}")
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise ConfigError("loss.option", f"ppo: dual_clip must exceed 1, got {self.dual_clip}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the shares of tokens at each clip."""
        log_ratio_BT = inputs.log_ratio_BT
        ratio_BT = log_ratio_BT.exp()
        advantages_BT = inputs.advantages_BT
        plain_BT = -advantages_BT * ratio_BT
        clipped_BT = -advantages_BT * ratio_BT.clamp(1 - self.clip_low, 1 + self.clip_high)
        values_BT = torch.maximum(plain_BT, clipped_BT)
        at_dual_clip_BT = torch.zeros_like(plain_BT)
        if self.dual_clip is not None:
            bound_BT = -advantages_BT * self.dual_clip
            negative_BT = advantages_BT < 0
            at_dual_clip_BT = (values_BT > bound_BT) & negative_BT
            values_BT = torch.where(negative_BT, torch.minimum(values_BT, bound_BT), values_BT)
        return TokenLosses(
            values_BT,
            {
                "actor/pg_clipfrac": clipped_BT > plain_BT,
                "actor/pg_clipfrac_lower": at_dual_clip_BT,
                "actor/ppo_kl": -log_ratio_BT,
            },
        )
