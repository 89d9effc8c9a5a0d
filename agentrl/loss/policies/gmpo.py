"""GMPO: the geometric instead of the arithmetic mean of a row's clipped token ratios."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from agentrl.loss.aggregation import row_mean
from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["GMPO"]


@dataclass(frozen=True, slots=True)
class GMPO:
    """Maximise Ā·exp(mean_t clip'(log ρ_t)) for each row, Ā the mean of its tokens' advantages.

    clip' clips log ρ_t to [−ε_low, ε_high] on the side that the sign of A_t makes pessimistic (2507.20673;
    ε = 0.4 in log space, so ratios in [e^−0.4, e^0.4]). The row's value stands on each of its tokens:
    average with `seq-mean-token-mean`. Importance weights enter by their geometric mean over the row. Same
    values as verl's `compute_policy_loss_geo_mean`. Fails where advantages differ inside a row: Ā blurs the
    turns, and turns of opposite sign cancel.
    """

    one_value_per_row: ClassVar[bool] = True

    clip_low: float = 0.4
    clip_high: float = 0.4

    def __post_init__(self) -> None:
        """Refuse bounds that exclude a ratio of 1."""
        require(self.clip_low >= 0, f"gmpo: clip_low must not be negative, got {self.clip_low}")
        require(self.clip_high >= 0, f"gmpo: clip_high must not be negative, got {self.clip_high}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return the row's −surrogate on each of its tokens, and the shares clipped above and below."""
        advantages_BT, log_ratio_BT = inputs.advantages_BT, inputs.raw_log_ratio_BT
        clamped_BT = log_ratio_BT.clamp(-self.clip_low, self.clip_high)
        sign_BT = advantages_BT.sign()
        pessimistic_BT = sign_BT * torch.minimum(sign_BT * log_ratio_BT, sign_BT * clamped_BT)
        ratio_B1 = row_mean(pessimistic_BT, inputs.mask_BT).exp()
        values_B1 = -row_mean(advantages_BT, inputs.mask_BT) * ratio_B1
        clipped_BT = log_ratio_BT != clamped_BT
        return TokenLosses(
            values_B1.expand_as(log_ratio_BT),
            {
                "actor/pg_clipfrac": clipped_BT & (advantages_BT > 0),
                "actor/pg_clipfrac_lower": clipped_BT & (advantages_BT < 0),
                "actor/ppo_kl": -log_ratio_BT,
            },
        )
