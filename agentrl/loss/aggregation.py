"""Per-token values -> one scalar, as `masked_total / denominator`.

    how                      masked_total                    denominator
    token-mean               Σ_bt m v                        Σ_bt m
    seq-mean-token-mean      Σ_b (Σ_t m v / Σ_t m)           rows that have a trainable token
    seq-mean-token-sum       Σ_b Σ_t m v                     rows that have a trainable token
    seq-mean-token-sum-norm  Σ_b Σ_t m v                     `padded_length`, a constant
    turn-mean                Σ_b mean_turns mean_tokens v    rows that have a trainable token

The first four are verl's `agg_loss` (core_algos.py); seq-mean-token-sum-norm is Dr.GRPO's constant divisor
(2503.20783) and is a sum, not a mean, over rows. turn-mean is Flow-GRPO's (2510.05592) token → turn →
episode and needs `turns`; it equals seq-mean-token-mean where a row is one turn. Both columns add up over
micro-batches: sum the totals of the parts, divide by the denominator of the whole.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor

from agentrl.errors import ConfigError

__all__ = ["AGGREGATIONS", "aggregate", "denominator", "keep", "masked_total", "row_mean", "segments"]

AGGREGATIONS = (
    "token-mean",
    "seq-mean-token-mean",
    "seq-mean-token-sum",
    "seq-mean-token-sum-norm",
    "turn-mean",
)


def aggregate(
    values_BT: Tensor,
    mask_BT: Tensor,
    how: str,
    padded_length: int | None = None,
    turns_BT: Tensor | None = None,
) -> Tensor:
    """Reduce values to a scalar; 0 with a zero gradient when no token is trainable.

    `padded_length` is the constant divisor of seq-mean-token-sum-norm, the tensor's width when absent;
    `turns_BT` says for turn-mean which turn of its row a token belongs to (any integers).

    Raises:
        ConfigError: `how` is no aggregation, `padded_length` is not positive, or turn-mean has no turns.
    """
    divisor = denominator(mask_BT, how, padded_length)
    return masked_total(values_BT, mask_BT, how, turns_BT) / max(divisor, 1.0)


def masked_total(values_BT: Tensor, mask_BT: Tensor, how: str, turns_BT: Tensor | None = None) -> Tensor:
    """Return the numerator of the table above: a scalar that adds up over disjoint sets of rows."""
    _check(how)
    kept_BT = keep(values_BT, mask_BT)
    if how == "seq-mean-token-mean":
        return row_mean(kept_BT, mask_BT).sum()
    if how == "turn-mean":
        return (kept_BT * _turn_shares(kept_BT, mask_BT, turns_BT)).sum()
    return kept_BT.sum()


def denominator(mask_BT: Tensor, how: str, padded_length: int | None = None) -> float:
    """Return the denominator of the table above; it too adds up over rows, except the constant one."""
    _check(how)
    if how == "token-mean":
        return float(mask_BT.sum())
    if how == "seq-mean-token-sum-norm":
        length = mask_BT.shape[-1] if padded_length is None else padded_length
        if length < 1:
            raise ConfigError("loss.padded_length", f"padded_length must be at least 1, got {length}")
        return float(length)
    return float((mask_BT.sum(dim=-1) > 0).sum())


def keep(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return the values with exact zeros, in value and gradient, wherever the mask is 0."""
    # A product would turn an infinite masked value into NaN; a selection cannot.
    return torch.where(mask_BT > 0, values_BT, values_BT.new_zeros(()))


def row_mean(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """Return each row's mean over its trainable tokens, `[rows, 1]`; 0 where there are none."""
    tokens_B1 = mask_BT.sum(dim=-1, keepdim=True).clamp(min=1)
    return keep(values_BT, mask_BT).sum(dim=-1, keepdim=True) / tokens_B1


def segments(pairs_N2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the distinct pairs in order, which of them each row of the input is, and their counts."""
    return cast(
        "tuple[Tensor, Tensor, Tensor]", pairs_N2.unique(dim=0, return_inverse=True, return_counts=True)
    )


def _turn_shares(values_BT: Tensor, mask_BT: Tensor, turns_BT: Tensor | None) -> Tensor:
    """Return 1 / (trainable tokens of the token's turn · turns of its row), 0 where masked."""
    if turns_BT is None:
        raise ConfigError("loss.aggregation", "turn-mean needs `turns`, the turn of each token")
    valid_BT = mask_BT > 0
    rows_BT = torch.arange(len(mask_BT), device=mask_BT.device).unsqueeze(-1).expand_as(turns_BT)
    pairs_N2 = torch.stack([rows_BT[valid_BT], turns_BT.to(rows_BT)[valid_BT]], dim=-1)
    found_K2, turn_N, tokens_K = segments(pairs_N2)
    turns_B = torch.bincount(found_K2[:, 0], minlength=len(mask_BT))
    shares_N = 1 / (tokens_K[turn_N] * turns_B[pairs_N2[:, 0]]).to(values_BT.dtype)
    return torch.zeros_like(values_BT).masked_scatter(valid_BT, shares_N)


def _check(how: str) -> None:
    if how not in AGGREGATIONS:
        raise ConfigError(
            "loss.aggregation",
            f"there is no aggregation {how!r}; those that exist: {', '.join(AGGREGATIONS)}",
        )
