"""Importance weights that correct for an engine which samples from other probabilities than it trains.

With log w = log π_old − log π_rollout, both of the same weights but of different code:

    token      w_t
    sequence   Π_t w_t           one weight for the whole row
    geometric  (Π_t w_t)^(1/n)   its per-token mean

"truncate" clamps from above (TIS, Yao et al. 2025); "mask" leaves the weights raw and drops what lies
outside [lower, upper] (MIS). A veto drops every row that holds a token with w below it. Same values as
verl's `mismatch_helper.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.loss.aggregation import keep

__all__ = ["RolloutWeights", "rollout_weights"]

LEVELS = ("token", "sequence", "geometric")
MODES = ("truncate", "mask")
MAX_LOG_RATIO = 20.0


@dataclass(frozen=True, slots=True)
class RolloutWeights:
    """Weights for `policy_loss(rollout_weights=…)`, and the mask without what was dropped."""

    weights_BT: Tensor
    mask_BT: Tensor


def rollout_weights(
    log_prob: Tensor,
    rollout_log_prob: Tensor,
    mask: Tensor,
    *,
    level: str = "token",
    mode: str = "truncate",
    upper: float = 2.0,
    lower: float | None = None,
    veto: float | None = None,
) -> RolloutWeights:
    """Compare the trainer's log-probs with the sampler's, both `[rows, tokens]` and of the same weights.

    Args:
        mask: 1 where a token is trainable; log-ratios are clamped to ±20.
        upper: largest weight that is kept as it is.
        lower: smallest weight that "mask" keeps; 1 / upper when absent.
        veto: a row with a token ratio below this is dropped whole.

    Raises:
        ConfigError: an unknown level or mode, or bounds that exclude 1.
    """
    lower = 1 / upper if lower is None else lower
    if level not in LEVELS or mode not in MODES:
        raise ConfigError(
            "loss.rollout", f"rollout weights have levels {LEVELS} and modes {MODES}, got {level!r}, {mode!r}"
        )
    if not 0 <= lower <= 1 <= upper:
        raise ConfigError("loss.rollout", f"the bounds must hold 1 between them, got [{lower}, {upper}]")
    log_ratio_BT = keep((log_prob - rollout_log_prob).detach(), mask)
    tokens_B1 = mask.sum(dim=-1, keepdim=True)
    combined_BT = log_ratio_BT
    if level != "token":
        combined_BT = log_ratio_BT.sum(dim=-1, keepdim=True).expand_as(log_ratio_BT)
    if level == "geometric":
        combined_BT = combined_BT / tokens_B1.clamp(min=1)
    weights_BT = keep(combined_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp(), mask)
    kept_BT = mask
    if mode == "truncate":
        weights_BT = weights_BT.clamp(max=upper)
    else:
        kept_BT = kept_BT * ((weights_BT >= lower) & (weights_BT <= upper))
    if veto is not None:
        token_BT = log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO).exp()
        vetoed_B1 = ((token_BT < veto) & (mask > 0)).any(dim=-1, keepdim=True)
        kept_BT = kept_BT * ~vetoed_B1
    return RolloutWeights(weights_BT, kept_BT)
