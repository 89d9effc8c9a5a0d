"""BAPO: widen the clip bounds until good tokens contribute enough."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import clipped_surrogate, require

__all__ = ["BAPO"]


@dataclass(frozen=True, slots=True)
class BAPO:
    """PPO's surrogate with dual clip and bounds [low, high] of ρ that are searched in every call.

        P = Σ_{A≥0} min(ρ, high)·A        N = −Σ_{A<0} max(ρ, low)·A        (2510.18927, algorithm 1)

    `variant="released"` (WooooDyy/BAPO): while P/N < target, raise low from 0.6 to 0.8 by 0.05, then high
    from 1.2 to 2.0 by 0.05; target 1. `variant="paper"`: while P/(P+N) < target, raise high first, then
    low; the paper's numbers are high 1.2 to 3.0 by 0.05, low 0.6 to 0.9 by 0.02, target 0.4. No negative
    term: the bounds stay. The search sees one call's tokens: cut into micro-batches, each has its own
    bounds. Fails where all advantages are negative: both bounds end at their maxima for nothing.
    """

    low_start: float = 0.6
    low_max: float = 0.8
    low_step: float = 0.05
    high_start: float = 1.2
    high_max: float = 2.0
    high_step: float = 0.05
    target: float = 1.0
    dual_clip: float | None = 3.0
    variant: str = "released"

    def __post_init__(self) -> None:
        """Refuse bounds that exclude a ratio of 1 or a search that cannot end."""
        low, high = (self.low_start, self.low_max), (self.high_start, self.high_max)
        require(0 <= low[0] <= low[1] <= 1, f"bapo: need 0 <= low_start <= low_max <= 1, got {low}")
        require(1 <= high[0] <= high[1] < 100, f"bapo: need 1 <= high_start <= high_max < 100, got {high}")
        for name in ("low_step", "high_step"):
            value: float = getattr(self, name)
            require(value >= 1e-3, f"bapo: {name} must be at least 0.001, got {value}")
        require(self.target >= 0, f"bapo: target must not be negative, got {self.target}")
        require(
            self.dual_clip is None or self.dual_clip > 1,
            f"bapo: dual_clip must exceed 1, got {self.dual_clip}",
        )
        known = ("released", "paper")
        require(self.variant in known, f"bapo: variant is one of {', '.join(known)}, got {self.variant!r}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with the bounds that were found."""
        log_ratio_BT, advantages_BT = inputs.log_ratio_BT, inputs.advantages_BT
        low, high = self._search(log_ratio_BT.detach().exp(), advantages_BT)
        tokens = clipped_surrogate(log_ratio_BT, advantages_BT, low, high, self.dual_clip)
        found = {"actor/bapo_low": low, "actor/bapo_high": high}
        constants = {name: torch.full_like(advantages_BT, value) for name, value in found.items()}
        return TokenLosses(tokens.values_BT, {**tokens.metrics_BT, **constants})

    def _search(self, ratio_BT: Tensor, advantages_BT: Tensor) -> tuple[float, float]:
        low, high = self.low_start, self.high_start
        low_first = self.variant == "released"
        while self._unbalanced(ratio_BT, advantages_BT, low, high):
            if low < self.low_max and (low_first or high >= self.high_max):
                low = min(low + self.low_step, self.low_max)
            elif high < self.high_max:
                high = min(high + self.high_step, self.high_max)
            else:
                break
        return low, high

    def _unbalanced(self, ratio_BT: Tensor, advantages_BT: Tensor, low: float, high: float) -> bool:
        good = float((advantages_BT.clamp(min=0) * ratio_BT.clamp(max=high)).sum())
        bad = float((-advantages_BT.clamp(max=0) * ratio_BT.clamp(min=low)).sum())
        share = good / max(bad if self.variant == "released" else good + bad, 1e-300)
        return bad > 0 and share < self.target
