"""DCPO's dynamic clip: bounds that widen as the token was less likely."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import clipped_surrogate, require

__all__ = ["DCPO"]


@dataclass(frozen=True, slots=True)
class DCPO:
    """PPO's surrogate with the bounds of `bounds`, a function of q = π_old of the token.

        low  = (1 + √max(1 − 4ε_low/q, 0)) / 2        high = min((1 + √(1 + 4ε_high/q)) / 2, cap)

    They keep |ρ(ρ−1)|·q below ε (2509.02333): [0.5, 10] for q → 0, close to PPO's for q → 1.
    ε = 0.2 / 0.28, cap 10, dual clip 10 as released (lime-RL/DCPO). The paper averages tokens inside a row
    and then sums rows (`seq-mean-token-mean` up to a constant). Fails where π_old is another engine's: an
    error in a small q widens its bounds most.
    """

    clip_low: float = 0.2
    clip_high: float = 0.28
    cap_high: float = 10.0
    dual_clip: float | None = 10.0

    def __post_init__(self) -> None:
        """Refuse bounds that exclude a ratio of 1."""
        require(self.clip_low >= 0, f"dcpo: clip_low must not be negative, got {self.clip_low}")
        require(self.clip_high >= 0, f"dcpo: clip_high must not be negative, got {self.clip_high}")
        require(self.cap_high >= 1, f"dcpo: cap_high must be at least 1, got {self.cap_high}")
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"dcpo: dual_clip must exceed 1, got {self.dual_clip}",
        )

    def bounds(self, old_log_prob_BT: Tensor) -> tuple[Tensor, Tensor]:
        """Return the lowest and highest ratio of each token, in the shape of log π_old."""
        old_prob_BT = old_log_prob_BT.exp()
        low_BT = (1 + (1 - 4 * self.clip_low / old_prob_BT).clamp(min=0).sqrt()) / 2
        high_BT = (1 + (1 + 4 * self.clip_high / old_prob_BT).sqrt()) / 2
        return low_BT, high_BT.clamp(max=self.cap_high)

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the shares of tokens at each clip."""
        with torch.no_grad():
            low_BT, high_BT = self.bounds(inputs.old_log_prob_BT)
        return clipped_surrogate(inputs.log_ratio_BT, inputs.advantages_BT, low_BT, high_BT, self.dual_clip)
