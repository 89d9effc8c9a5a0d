"""What several losses share: the pessimistic minimum with its dual clip, covariances, checks of options."""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.loss.base import LossInputs, TokenLosses

__all__ = ["check_clip", "clipped_surrogate", "covariance", "dual_clipped", "require"]


def clipped_surrogate(
    log_ratio_BT: Tensor,
    advantages_BT: Tensor,
    low: float | Tensor,
    high: float | Tensor,
    dual_clip: float | None,
) -> TokenLosses:
    """Return −min(ρA, clip(ρ, low, high)·A), for A < 0 never more than −c·A; bounds are of ρ itself."""
    ratio_BT = log_ratio_BT.exp()
    plain_BT = -advantages_BT * ratio_BT
    low_BT, high_BT = torch.as_tensor(low).to(ratio_BT), torch.as_tensor(high).to(ratio_BT)
    clipped_BT = -advantages_BT * ratio_BT.clamp(low_BT, high_BT)
    worse_BT = torch.maximum(plain_BT, clipped_BT)
    values_BT, at_dual_clip_BT = dual_clipped(worse_BT, advantages_BT, dual_clip)
    return TokenLosses(
        values_BT,
        {
            "actor/pg_clipfrac": clipped_BT > plain_BT,
            "actor/pg_clipfrac_lower": at_dual_clip_BT,
            "actor/ppo_kl": -log_ratio_BT,
        },
    )


def dual_clipped(values_BT: Tensor, advantages_BT: Tensor, dual_clip: float | None) -> tuple[Tensor, Tensor]:
    """Bound the loss of bad tokens by −c·A (1912.09729, eq. 5) and say where that bound was reached."""
    if dual_clip is None:
        return values_BT, torch.zeros_like(values_BT)
    bound_BT = -advantages_BT * dual_clip
    negative_BT = advantages_BT < 0
    reached_BT = (values_BT > bound_BT) & negative_BT
    return torch.where(negative_BT, torch.minimum(values_BT, bound_BT), values_BT), reached_BT


def covariance(inputs: LossInputs) -> Tensor:
    """Return (A − Ā)(log π − mean log π) of the N trainable tokens, row by row; no gradient.

    In float32 whatever the tensors are: tokens are chosen by rank, and a tie that rounding breaks should be
    broken alike in every precision, as it is in the reference.
    """
    valid_BT = inputs.mask_BT > 0
    advantages_N = inputs.advantages_BT[valid_BT].float()
    log_prob_N = inputs.log_prob_BT.detach()[valid_BT].float()
    return (advantages_N - advantages_N.mean()) * (log_prob_N - log_prob_N.mean())


def require(condition: bool, problem: str) -> None:
    """Refuse an option.

    Raises:
        ConfigError: the condition does not hold (the user's mistake); `problem` names loss and option.
    """
    if not condition:
        raise ConfigError("loss.option", problem)


def check_clip(loss: str, clip_low: float, clip_high: float, dual_clip: float | None = None) -> None:
    """Refuse bounds [1 − clip_low, 1 + clip_high] and dual clips for which the surrogate means nothing."""
    require(0 <= clip_low <= 1, f"{loss}: clip_low must lie in [0, 1], got {clip_low}")
    require(clip_high >= 0, f"{loss}: clip_high must not be negative, got {clip_high}")
    require(dual_clip is None or dual_clip > 1, f"{loss}: dual_clip must exceed 1, got {dual_clip}")
