"""Clip-Cov: a few random tokens among those that drive entropy down get no gradient."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import check_clip, clipped_surrogate, covariance, require

__all__ = ["ClipCov"]


@dataclass(frozen=True, slots=True)
class ClipCov:
    """PPO's surrogate, 0 on at most max(1, `ratio`·N) random tokens with lb < cov < ub that PPO did not clip.

    cov = (A − Ā)(log π − mean log π) over the N trainable tokens (2505.22617). ratio = 2e-4,
    (lb, ub) = (1, 5), clip 1 / 1 as in the released recipe; no dual clip. Same values as verl's
    `compute_policy_loss_clip_cov`. Tokens are drawn with `seed` anew in every call, so updates repeat
    bitwise; cut into micro-batches, each draws its own share. Fails silently where no covariance reaches
    `lb`: watch `actor/pg_clipfrac`, the share of tokens that were dropped.
    """

    ratio: float = 2e-4
    lb: float = 1.0
    ub: float = 5.0
    clip_low: float = 1.0
    clip_high: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse an empty corridor or share."""
        check_clip("clip_cov", self.clip_low, self.clip_high)
        require(0 < self.ratio <= 1, f"clip_cov: ratio must lie in (0, 1], got {self.ratio}")
        require(self.lb < self.ub, f"clip_cov: lb must lie below ub, got {self.lb} and {self.ub}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, 0 where dropped, with the share of dropped tokens."""
        low, high = 1 - self.clip_low, 1 + self.clip_high
        log_ratio_BT = inputs.log_ratio_BT
        tokens = clipped_surrogate(log_ratio_BT, inputs.advantages_BT, low, high, None)
        dropped_BT = self._dropped(inputs, tokens.metrics_BT["actor/pg_clipfrac"])
        return TokenLosses(
            tokens.values_BT * ~dropped_BT,
            {"actor/pg_clipfrac": dropped_BT, "actor/ppo_kl": -inputs.raw_log_ratio_BT},
        )

    def _dropped(self, inputs: LossInputs, clipped_BT: Tensor) -> Tensor:
        valid_BT = inputs.mask_BT > 0
        covariance_N = covariance(inputs)
        inside_N = (covariance_N > self.lb) & (covariance_N < self.ub) & ~clipped_BT[valid_BT]
        candidates = inside_N.nonzero().flatten()
        limit = max(1, int(self.ratio * len(covariance_N)))
        order = torch.randperm(len(candidates), generator=torch.Generator().manual_seed(self.seed))
        dropped_N = torch.zeros_like(inside_N)
        dropped_N[candidates[order[:limit].to(candidates.device)]] = True
        return torch.zeros_like(valid_BT).masked_scatter(valid_BT, dropped_N)
