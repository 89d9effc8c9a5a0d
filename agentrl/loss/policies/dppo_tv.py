"""DPPO with total variation: a token is left out once its probability itself has moved too far."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["DPPOTotalVariation"]


@dataclass(frozen=True, slots=True)
class DPPOTotalVariation:
    """Maximise M·sg(min(ρ, cap))·A·log π, M = 0 where the token moves beyond the trust region.

        A > 0:  M = [π − π_old ≤ δ_high]        A ≤ 0:  M = [π − π_old ≥ −δ_low]

    |π − π_old| of the sampled token is the binary total variation (2602.04879). Unlike a
    ratio it lets unlikely tokens grow and holds likely ones. δ = 0.15, cap 20. Same values as verl's
    `compute_policy_loss_dppo_tv`. Fails to see movement among the tokens that were not sampled.
    """

    tv_threshold_low: float = 0.15
    tv_threshold_high: float = 0.15
    ratio_cap: float = 20.0

    def __post_init__(self) -> None:
        """Refuse a trust region that does not hold the old policy."""
        low, high = self.tv_threshold_low, self.tv_threshold_high
        require(low >= 0, f"dppo_tv: tv_threshold_low must not be negative, got {low}")
        require(high >= 0, f"dppo_tv: tv_threshold_high must not be negative, got {high}")
        require(self.ratio_cap >= 1, f"dppo_tv: ratio_cap must be at least 1, got {self.ratio_cap}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −M·weight·A·log π for each token, with the shares left out and capped."""
        with torch.no_grad():
            log_ratio_BT = inputs.log_ratio_BT
            ratio_BT = log_ratio_BT.exp()
            moved_BT = inputs.log_prob_BT.exp() - inputs.old_log_prob_BT.exp()
            inside_BT = torch.where(
                inputs.advantages_BT > 0,
                moved_BT <= self.tv_threshold_high,
                moved_BT >= -self.tv_threshold_low,
            )
            weights_BT = ratio_BT.clamp(max=self.ratio_cap) * inside_BT
        return TokenLosses(
            -weights_BT * inputs.advantages_BT * inputs.log_prob_BT,
            {
                "actor/pg_clipfrac": ~inside_BT,
                "actor/pg_clipfrac_lower": (ratio_BT > self.ratio_cap) & inside_BT,
                "actor/ppo_kl": -log_ratio_BT,
            },
        )
