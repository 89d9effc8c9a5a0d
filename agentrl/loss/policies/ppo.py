"""PPO's clipped surrogate with dual clipping; with other bounds and token-mean it is DAPO's loss."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import check_clip, clipped_surrogate

__all__ = ["PPO"]


@dataclass(frozen=True, slots=True)
class PPO:
    """Maximise min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A), and for A < 0 never less than c·A.

    PPO (1707.06347, eq. 7) has ε_low = ε_high = 0.2; DAPO (2503.14476, eq. 8) raises ε_high to 0.28. The
    dual clip c > 1 (1912.09729, eq. 5) bounds the loss of tokens that the policy has moved towards
    although they were bad; `dual_clip=None` turns it off. Same values as verl's
    `compute_policy_loss_vanilla`. Fails on long replies when old log-probs come from another engine: the
    clip then cuts rounding, not movement (`rollout_weights` is for that).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = 3.0

    def __post_init__(self) -> None:
        """Refuse bounds for which the surrogate makes no sense."""
        check_clip("ppo", self.clip_low, self.clip_high, self.dual_clip)

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the shares of tokens at each clip."""
        low, high = 1 - self.clip_low, 1 + self.clip_high
        return clipped_surrogate(inputs.log_ratio_BT, inputs.advantages_BT, low, high, self.dual_clip)
