"""SAPO: a sigmoid gate on the ratio instead of a clip."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["SAPO"]


@dataclass(frozen=True, slots=True)
class SAPO:
    """Maximise (4/τ)·σ(τ(ρ − 1))·A, τ = τ₊ where A > 0 and τ₋ elsewhere (2511.20347).

    At ρ = 1 the gradient is A·∇log π, as in PPO; away from 1 it decays smoothly on both sides, also where
    PPO's pessimistic minimum would not clip. τ₊ = 1.0, τ₋ = 1.05: bad tokens decay slightly faster. To be
    averaged with `seq-mean-token-mean`. Same values as verl's `compute_policy_loss_sapo`. Fails to correct
    a bad token that the policy has moved far towards: its gate is shut.
    """

    tau_pos: float = 1.0
    tau_neg: float = 1.05

    def __post_init__(self) -> None:
        """Refuse temperatures for which the gate is no gate."""
        require(self.tau_pos > 0, f"sapo: tau_pos must be positive, got {self.tau_pos}")
        require(self.tau_neg > 0, f"sapo: tau_neg must be positive, got {self.tau_neg}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −gate·A for each token."""
        ratio_BT, advantages_BT = inputs.log_ratio_BT.exp(), inputs.advantages_BT
        tau_BT = torch.where(
            advantages_BT > 0, ratio_BT.new_tensor(self.tau_pos), ratio_BT.new_tensor(self.tau_neg)
        )
        gate_BT = torch.sigmoid(tau_BT * (ratio_BT - 1)) * (4 / tau_BT)
        return TokenLosses(-gate_BT * advantages_BT, {"actor/ppo_kl": -inputs.log_ratio_BT})
