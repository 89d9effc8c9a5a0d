"""GPPO and CE-GPPO: PPO's clip in value, but clipped tokens keep a bounded gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import check_clip, dual_clipped, require

__all__ = ["GPPO"]


@dataclass(frozen=True, slots=True)
class GPPO:
    """Maximise ρA, with ρ replaced where PPO clips it: by β₁(1−ε_low)·π/sg(π) or β₂(1+ε_high)·π/sg(π).

    The replacement has PPO's value (times β) and the gradient β(1∓ε)·A·∇log π instead of 0. ρ < 1−ε_low
    with A < 0 takes β₁, ρ > 1+ε_high with A > 0 takes β₂. GPPO (2508.07629) has β₁ = β₂ = 1;
    CE-GPPO (2509.20712, eq. 8) 0.75 and 1, smaller β₁ holding entropy up. ε = 0.2 / 0.28, dual clip 3.
    Fails like CISPO on very stale data; the dual clip, which has no gradient, is its only stop.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    beta1: float = 1.0
    beta2: float = 1.0
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        """Refuse bounds and scales for which the surrogate makes no sense."""
        check_clip("gppo", self.clip_low, self.clip_high, self.dual_clip)
        require(self.beta1 >= 0, f"gppo: beta1 must not be negative, got {self.beta1}")
        require(self.beta2 >= 0, f"gppo: beta2 must not be negative, got {self.beta2}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the shares of tokens at each clip."""
        advantages_BT, log_prob_BT = inputs.advantages_BT, inputs.log_prob_BT
        ratio_BT = inputs.log_ratio_BT.exp()
        # exp(0) with the gradient of log π: it stands even where the log-ratio itself is clamped.
        carrier_BT = (log_prob_BT - log_prob_BT.detach()).exp()
        low, high = 1 - self.clip_low, 1 + self.clip_high
        below_BT = (ratio_BT < low) & (advantages_BT < 0)
        above_BT = (ratio_BT > high) & (advantages_BT > 0)
        kept_BT = torch.where(below_BT, self.beta1 * low * carrier_BT, ratio_BT)
        kept_BT = torch.where(above_BT, self.beta2 * high * carrier_BT, kept_BT)
        values_BT, at_dual_clip_BT = dual_clipped(-kept_BT * advantages_BT, advantages_BT, self.dual_clip)
        return TokenLosses(
            values_BT,
            {
                "actor/pg_clipfrac": below_BT | above_BT,
                "actor/pg_clipfrac_lower": at_dual_clip_BT,
                "actor/ppo_kl": -inputs.log_ratio_BT,
            },
        )
