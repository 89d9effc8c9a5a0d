"""DPPO with a binary KL: a token is left out once its own two-way divergence is too large."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["DPPOBinaryKL"]

EPSILON = 1e-8


@dataclass(frozen=True, slots=True)
class DPPOBinaryKL:
    """Maximise M·sg(min(ρ, cap))·A·log π, M = 0 where the token moves beyond the trust region.

        KL = q·log(q/p) + (1−q)·log((1−q)/(1−p)),  q = π_old, p = π of the sampled token
        A > 0:  M = [KL ≤ δ_high or p ≤ q]        A ≤ 0:  M = [KL ≤ δ_low or p ≥ q]

    The divergence of "this token or another" (2602.04879); a token that has moved far, but the way
    that A would undo, stays in. δ = 0.05, cap 20. Same values as verl's `compute_policy_loss_dppo_kl`.
    Fails to see movement among the tokens that were not sampled.
    """

    kl_threshold_low: float = 0.05
    kl_threshold_high: float = 0.05
    ratio_cap: float = 20.0

    def __post_init__(self) -> None:
        """Refuse a trust region that does not hold the old policy."""
        low, high = self.kl_threshold_low, self.kl_threshold_high
        require(low >= 0, f"dppo_kl: kl_threshold_low must not be negative, got {low}")
        require(high >= 0, f"dppo_kl: kl_threshold_high must not be negative, got {high}")
        require(self.ratio_cap >= 1, f"dppo_kl: ratio_cap must be at least 1, got {self.ratio_cap}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −M·weight·A·log π for each token, with the shares left out and capped."""
        with torch.no_grad():
            log_ratio_BT = inputs.log_ratio_BT
            ratio_BT = log_ratio_BT.exp()
            # A log-prob can round to just above 0; 1 − p below 0 would make the divergence NaN.
            old_BT = inputs.old_log_prob_BT.exp().clamp(max=1)
            new_BT = inputs.log_prob_BT.exp().clamp(max=1)
            other_BT = ((1 - old_BT + EPSILON) / (1 - new_BT + EPSILON)).log()
            kl_BT = old_BT * (inputs.old_log_prob_BT - inputs.log_prob_BT) + (1 - old_BT) * other_BT
            inside_BT = torch.where(
                inputs.advantages_BT > 0,
                (kl_BT <= self.kl_threshold_high) | (new_BT <= old_BT),
                (kl_BT <= self.kl_threshold_low) | (new_BT >= old_BT),
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
