"""CISPO: clip the importance weight, not the update; every token keeps a gradient."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["CISPO"]


@dataclass(frozen=True, slots=True)
class CISPO:
    """Maximise sg(clip(ρ, 1−ε_low, 1+ε_high))·A·log π (MiniMax-M1, 2506.13585, eq. 4 and 5).

    ε = 0.2 / 0.28 here; the paper tunes only ε_high and turns the low side off, which ε_low ≥ 1 does. The
    log-ratio is clamped to ±20. Same values as verl's `compute_policy_loss_cispo`. Fails after many
    minibatches of stale data: no token ever stops being pushed, however far it has moved.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28

    def __post_init__(self) -> None:
        """Refuse bounds that exclude a ratio of 1."""
        require(self.clip_low >= 0, f"cispo: clip_low must not be negative, got {self.clip_low}")
        require(self.clip_high >= 0, f"cispo: clip_high must not be negative, got {self.clip_high}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −weight·A·log π for each token, with the share of clipped weights."""
        log_ratio_BT = inputs.log_ratio_BT.detach()
        ratio_BT = log_ratio_BT.exp()
        weights_BT = ratio_BT.clamp(1 - self.clip_low, 1 + self.clip_high)
        return TokenLosses(
            -weights_BT * inputs.advantages_BT * inputs.log_prob_BT,
            {"actor/pg_clipfrac": ratio_BT != weights_BT, "actor/ppo_kl": -log_ratio_BT},
        )
