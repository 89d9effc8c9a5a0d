"""What a policy loss is, and `policy_loss`, the one call that evaluates any of them.

A policy loss is a frozen dataclass whose fields are its options. Called with `LossInputs` it returns one
value per token and per-token metrics; it never averages, so it cannot get a denominator wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from agentrl import registry
from agentrl.errors import ConfigError
from agentrl.loss.aggregation import aggregate, keep, row_mean

__all__ = ["LossInputs", "LossResult", "PolicyLoss", "TokenLosses", "build", "masked_inputs", "policy_loss"]

MAX_LOG_RATIO = 20.0
MIN_WEIGHT = 1e-10


@dataclass(frozen=True, slots=True)
class LossInputs:
    """What a policy loss sees, `[rows, tokens]`; values where `mask_BT` is 0 are 0 and unused.

    `groups_B` holds one integer per row, the same for rows of the same task; None where nobody knows.
    """

    log_prob_BT: Tensor
    old_log_prob_BT: Tensor
    advantages_BT: Tensor
    mask_BT: Tensor
    groups_B: Tensor | None = None

    @property
    def raw_log_ratio_BT(self) -> Tensor:
        """log ρ = log π − log π_old as it is; ρ may overflow."""
        return self.log_prob_BT - self.old_log_prob_BT

    @property
    def log_ratio_BT(self) -> Tensor:
        """log ρ clamped to ±20 so that ρ stays finite (its gradient is 0 beyond)."""
        return self.raw_log_ratio_BT.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)


@dataclass(frozen=True, slots=True)
class TokenLosses:
    """A loss value for each token (to be minimised) and metrics whose masked means are reported."""

    values_BT: Tensor
    metrics_BT: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class LossResult:
    """A scalar loss that carries the gradient, and metrics as plain numbers."""

    loss: Tensor
    metrics: Mapping[str, float]


class PolicyLoss(Protocol):
    """A policy loss with its options bound.

    A class attribute `one_value_per_row = True` says that all tokens of a row carry the row's value, and
    `whole_groups = True` that the loss compares the rows of a task, which the trainer then keeps together.
    """

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return the loss of every token, without any averaging."""
        ...


def build(name: str, options: Mapping[str, Any] | None = None) -> PolicyLoss:
    """Find a policy loss by name and bind its options.

    Raises:
        UnknownPlugin: no such loss; the message lists what exists.
        ConfigError: an option that the loss does not have, or a value that it refuses.
    """
    make: Callable[..., PolicyLoss] = registry.load("loss", name)
    given = dict(options or {})
    known = list(getattr(make, "__dataclass_fields__", given))
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ConfigError(
            "loss.option",
            f"loss {name!r} has no option {', '.join(unknown)}; its options: {', '.join(known) or 'none'}",
            {"loss": name, "unknown": unknown, "known": known},
        )
    try:
        return make(**given)
    except TypeError as error:
        raise ConfigError("loss.option", f"loss {name!r} cannot take the options {given}: {error}") from error


def policy_loss(
    name: str,
    *,
    log_prob: Tensor,
    old_log_prob: Tensor,
    advantages: Tensor,
    mask: Tensor,
    aggregation: str,
    padded_length: int | None = None,
    turns: Tensor | None = None,
    groups: Tensor | None = None,
    rollout_weights: Tensor | None = None,
    **options: Any,
) -> LossResult:
    """Evaluate a policy loss on `[rows, tokens]` tensors.

    Args:
        name: file name in `agentrl.loss.policies`.
        log_prob: log π of the sampled tokens under the weights in training; carries the gradient.
        old_log_prob: log π_old of the same tokens, the denominator of the ratio.
        advantages: one value per token.
        mask: 1 where a token is trainable; everything else is ignored, whatever it holds.
        aggregation: one of `AGGREGATIONS`.
        padded_length: constant divisor of seq-mean-token-sum-norm.
        turns: integers, the turn of its row that each token belongs to; turn-mean needs them.
        groups: integers `[rows]`, the task of each row; a loss that compares rows needs them.
        rollout_weights: importance weights π_old / π_rollout that multiply each token's loss.
        options: the loss's own options.

    Raises:
        ConfigError: an unknown option or aggregation, or tensors of different shapes.
        UnknownPlugin: an unknown loss.
    """
    loss_of = build(name, options)
    inputs = masked_inputs(log_prob, old_log_prob, advantages, mask, groups)
    tokens = loss_of(inputs)
    values_BT = tokens.values_BT
    if rollout_weights is not None:
        values_BT = values_BT * _combined(rollout_weights, mask, loss_of)
    loss = aggregate(values_BT, mask, aggregation, padded_length, turns)
    metrics = {
        key: float(aggregate(value_BT.detach().to(log_prob.dtype), mask, "token-mean"))
        for key, value_BT in tokens.metrics_BT.items()
    }
    return LossResult(loss, metrics)


def _combined(weights_BT: Tensor, mask_BT: Tensor, loss_of: PolicyLoss) -> Tensor:
    """Return the weights as the loss takes them: one per token, or their geometric mean over the row."""
    with torch.no_grad():
        weights_BT = keep(weights_BT, mask_BT)
        if getattr(loss_of, "one_value_per_row", False):
            return row_mean((weights_BT + MIN_WEIGHT).log(), mask_BT).exp()
        return weights_BT


def masked_inputs(
    log_prob: Tensor, old_log_prob: Tensor, advantages: Tensor, mask: Tensor, groups: Tensor | None = None
) -> LossInputs:
    """Check shapes and blank what is masked.

    A masked NaN or infinity that entered a loss would come back as a NaN gradient (0 · ∞), so masked
    positions are replaced before any arithmetic and not only left out of the sum.
    """
    shapes = {
        "log_prob": tuple(log_prob.shape),
        "old_log_prob": tuple(old_log_prob.shape),
        "advantages": tuple(advantages.shape),
        "mask": tuple(mask.shape),
    }
    if len(set(shapes.values())) != 1 or log_prob.dim() != 2:
        listed = ", ".join(f"{key} {shape}" for key, shape in shapes.items())
        raise ConfigError(
            "loss.shape", f"a policy loss takes equal [rows, tokens] tensors, got {listed}", shapes
        )
    if groups is not None and groups.shape != mask.shape[:1]:
        raise ConfigError(
            "loss.shape", f"groups are one integer per row, got the shape {tuple(groups.shape)}"
        )
    with torch.no_grad():
        old_BT = keep(old_log_prob, mask)
        advantages_BT = keep(advantages, mask)
    return LossInputs(keep(log_prob, mask), old_BT, advantages_BT, mask, groups)
