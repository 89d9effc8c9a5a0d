"""GSPO: one ratio for the whole row, the geometric mean of its token ratios."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.aggregation import row_mean
from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import check_clip, clipped_surrogate

__all__ = ["GSPO"]

MAX_LOG_RATIO = 10.0


@dataclass(frozen=True, slots=True)
class GSPO:
    """Maximise min(s_t A_t, clip(s_t, 1−ε_low, 1+ε_high)·A_t) with s_t = sg(s)·π/sg(π).

    s = exp(mean_t (log π − log π_old)) over the row's trainable tokens (2507.18071, eq. 7); s_t is its
    token form (eq. 13 and 14): the same value for every token of the row, with the gradient of the token's
    own log-prob, so that advantages may differ from turn to turn. ε = 3e-4 / 4e-4: s moves far less than a
    token ratio. To be averaged with `seq-mean-token-mean`. log s is bounded by 10, as in verl's
    `compute_policy_loss_gspo`. Fails where rows are one turn each and "sequence" is meant to be the
    episode: s is then the turn's.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4

    def __post_init__(self) -> None:
        """Refuse bounds for which the surrogate makes no sense."""
        check_clip("gspo", self.clip_low, self.clip_high)

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token; the clip share counts tokens of clipped rows."""
        log_prob_BT = inputs.log_prob_BT
        log_ratio_BT = inputs.raw_log_ratio_BT
        mean_B1 = row_mean(log_ratio_BT.detach(), inputs.mask_BT)
        sequence_BT = (log_prob_BT - log_prob_BT.detach() + mean_B1).clamp(max=MAX_LOG_RATIO)
        low, high = 1 - self.clip_low, 1 + self.clip_high
        tokens = clipped_surrogate(sequence_BT, inputs.advantages_BT, low, high, None)
        return TokenLosses(tokens.values_BT, {**tokens.metrics_BT, "actor/ppo_kl": -log_ratio_BT})
