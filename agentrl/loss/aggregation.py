"""Per-token values -> one scalar, as `masked_total / denominator`.

    how                      masked_total                    denominator
    token-mean               Σ_bt m v                        Σ_bt m
    seq-mean-token-mean      Σ_b (Σ_t m v / Σ_t m)           rows that have a trainable token
    seq-mean-token-sum       Σ_b Σ_t m v                     rows that have a trainable token
    seq-mean-token-sum-norm  Σ_b Σ_t m v                     `padded_length`, a constant

The four are verl's `agg_loss` (core_algos.py); the last is Dr.GRPO's constant divisor (2503.20783) and
is a sum, not a mean, over rows. Both columns add up over micro-batches: sum the totals of the parts,
divide by the denominator of the whole.
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.errors import ConfigError

__all__ = ["AGGREGATIONS", "aggregate", "denominator", "keep", "masked_total"]

AGGREGATIONS = ("token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm")


def aggregate(values_BT: Tensor, mask_BT: Tensor, how: str, padded_length: int | None = None) -> Tensor:
    """Reduce values to a scalar; 0 with a zero gradient when no token is trainable.

    `padded_length` is the constant divisor of seq-mean-token-sum-norm; the tensor's width when absent.

    Raises:
        ConfigError: `how` is no aggregation, or `padded_length` is not positive.
    """
    divisor = denominator(mask_BT, how, padded_length)
    return masked_total(values_BT, mask_BT, how) / max(divisor, 1.0)


def masked_total(values_BT: Tensor, mask_BT: Tensor, how: str) -> Tensor:
    """Return the numerator of the table above: a scalar that adds up over disjoint sets of rows."""
    _check(how)
    kept_BT = keep(values_BT, mask_BT)
    if how == "seq-mean-token-mean":
        tokens_B = mask_BT.sum(dim=-1).clamp(min=1)
        return (kept_BT.sum(dim=-1) / tokens_B).sum()
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


def _check(how: str) -> None:
    if how not in AGGREGATIONS:
        raise ConfigError(
            "loss.aggregation",
            f"there is no aggregation {how!r}; those that exist: {', '.join(AGGREGATIONS)}",
        )
