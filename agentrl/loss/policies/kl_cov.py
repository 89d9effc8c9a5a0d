"""KL-Cov: a KL penalty on the few tokens that drive entropy down."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import covariance, require

__all__ = ["KLCov"]

# Far above any clip, so that the penalty acts as the paper has it, and below float32's overflow.
MAX_LOG_RATIO = 80.0


@dataclass(frozen=True, slots=True)
class KLCov:
    """Maximise ρA, less coef·|log π − log π_old| on the `ratio`·N tokens of highest covariance (at least 1).

    cov = (A − Ā)(log π − mean log π) over the N trainable tokens: likely tokens with high advantage, whose
    reinforcement costs entropy (2505.22617). ratio = 2e-4 (2e-3 for the paper's 7B model),
    coef = 1; nothing is clipped. Same values as verl's `compute_policy_loss_kl_cov`. The choice is made
    within one call: cut into micro-batches, each penalises its own top share. Fails on stale data, where
    an unclipped ρ dominates the mean.
    """

    ratio: float = 2e-4
    coef: float = 1.0

    def __post_init__(self) -> None:
        """Refuse a share that is none."""
        require(0 < self.ratio <= 1, f"kl_cov: ratio must lie in (0, 1], got {self.ratio}")
        require(self.coef >= 0, f"kl_cov: coef must not be negative, got {self.coef}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −ρA plus the penalty for each token; `ppo_kl` is the mean |log-ratio|."""
        log_ratio_BT = inputs.raw_log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
        values_BT = -inputs.advantages_BT * log_ratio_BT.exp()
        valid_BT = inputs.mask_BT > 0
        covariance_N = covariance(inputs)
        chosen_N = torch.zeros_like(covariance_N, dtype=values_BT.dtype)
        if len(covariance_N):
            count = max(1, int(len(covariance_N) * self.ratio))
            chosen_N[covariance_N.topk(count).indices] = 1
        chosen_BT = torch.zeros_like(values_BT).masked_scatter(valid_BT, chosen_N)
        values_BT = values_BT + self.coef * chosen_BT * log_ratio_BT.abs()
        return TokenLosses(
            values_BT, {"actor/kl_cov_share": chosen_BT, "actor/ppo_kl": inputs.raw_log_ratio_BT.abs()}
        )
