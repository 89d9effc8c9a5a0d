"""MHPO: a smooth bound on the log-ratio and a hazard penalty instead of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import softplus

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["MHPO"]


@dataclass(frozen=True, slots=True)
class MHPO:
    """Maximise exp(ψ − sg ζ)·A with ψ = c·tanh(log ρ / c), a log-ratio that cannot leave ±c.

        ζ = (softplus(ψ)/λ₊)^k₊ + (softplus(−ψ)/λ₋)^k₋

    is the cumulative hazard of two Weibull laws, one for each direction (2603.16929): it damps tokens the
    more they have moved, without ever cutting the gradient to 0. c = 1.5, (k₊, λ₊) = (1.5, 1.0),
    (k₋, λ₋) = (2.0, 0.8). Fails to match other losses' learning rates: at ρ = 1 the gradient is
    e^−ζ(0)·A ≈ 0.27·A, not A.
    """

    c: float = 1.5
    k_pos: float = 1.5
    lambda_pos: float = 1.0
    k_neg: float = 2.0
    lambda_neg: float = 0.8

    def __post_init__(self) -> None:
        """Refuse scales and shapes that are no Weibull law's."""
        for name in ("c", "k_pos", "lambda_pos", "k_neg", "lambda_neg"):
            value: float = getattr(self, name)
            require(value > 0, f"mhpo: {name} must be positive, got {value}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −surrogate for each token, with its mean hazard ζ."""
        log_ratio_BT = inputs.raw_log_ratio_BT
        bounded_BT = self.c * torch.tanh(log_ratio_BT / self.c)
        with torch.no_grad():
            up_BT = (softplus(bounded_BT) / self.lambda_pos) ** self.k_pos
            down_BT = (softplus(-bounded_BT) / self.lambda_neg) ** self.k_neg
            hazard_BT = up_BT + down_BT
        return TokenLosses(
            -(bounded_BT - hazard_BT).exp() * inputs.advantages_BT,
            {"actor/mhpo_hazard": hazard_BT, "actor/ppo_kl": -log_ratio_BT},
        )
