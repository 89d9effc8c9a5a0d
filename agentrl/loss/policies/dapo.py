"""DAPO's clip-higher: PPO's surrogate with a wider upper bound; average it with `token-mean`."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import check_clip, clipped_surrogate

__all__ = ["DAPO"]


@dataclass(frozen=True, slots=True)
class DAPO:
    """Maximise min(ρA, clip(ρ, 1−ε_low, 1+ε_high)·A) with ε_low = 0.2 < ε_high = 0.28.

    DAPO (2503.14476, eq. 8 and 10): an unlikely token can grow by more than it can shrink, which keeps
    entropy up; no KL term; the mean is over the batch's tokens, so long replies weigh more. The dual clip
    is 10 in the released recipe. Fails where negative tokens dominate: ε_high then does nothing, and
    entropy falls as in PPO (see `bapo`).
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    dual_clip: float | None = 10.0

    def __post_init__(self) -> None:
        """Refuse bounds for which the surrogate makes no sense."""
        check_clip("dapo", self.clip_low, self.clip_high, self.dual_clip)

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the shares of tokens at each clip."""
        low, high = 1 - self.clip_low, 1 + self.clip_high
        return clipped_surrogate(inputs.log_ratio_BT, inputs.advantages_BT, low, high, self.dual_clip)
