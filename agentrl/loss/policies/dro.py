"""DRO: the policy gradient with a quadratic pull towards the policy that sampled."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["DRO"]


@dataclass(frozen=True, slots=True)
class DRO:
    """Maximise A·log π − (β/2)·(log π − log π_old)², β > 0 (2405.19107, with A for r − V).

    No ratio multiplies the gradient, A − β(log π − log π_old), so stale tokens add no variance. Same values
    as verl's `compute_policy_loss_dro`, which has no default for β; 0.05 is ours. Fails with a small β on
    many epochs: A < 0 then drives log π down to log π_old + A/β, far beyond any clip.
    """

    beta: float = 0.05

    def __post_init__(self) -> None:
        """Refuse a pull of no or the wrong direction."""
        require(self.beta > 0, f"dro: beta must be positive, got {self.beta}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −A·log π plus the pull for each token."""
        log_ratio_BT = inputs.raw_log_ratio_BT
        pull_BT = 0.5 * self.beta * log_ratio_BT.square()
        values_BT = -inputs.advantages_BT * inputs.log_prob_BT + pull_BT
        return TokenLosses(values_BT, {"actor/ppo_kl": -log_ratio_BT})
