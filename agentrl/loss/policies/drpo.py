"""DRPO: contrast each task's good replies with its bad ones, length weighing among the good ones alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.loss.aggregation import row_mean
from agentrl.loss.base import LossInputs, TokenLosses
from agentrl.loss.surrogate import require

__all__ = ["DRPO"]


@dataclass(frozen=True, slots=True)
class DRPO:
    """Maximise the mean over tasks of Σ₊ ω_i (s_i − τ·S/sg S) / Σ₊ ω_i, less sg(β(KL − δ))₊·KL.

    s = mean token log-prob of a row, S = Σ₋ exp(s/τ), ω = exp((1 − length/`max_length`)/`lam`); + are the
    rows with positive mean advantage, − the others, of one task (2510.04474; released form: S/sg S for the
    log-mean-exp, KL = mean(log π_old − log π)). τ 10, λ 0.1, β 1e3, δ 1e-4. Needs `groups`; average with
    `seq-mean-token-mean`; in micro-batches tasks weigh by their rows. A long good row never gets a negative
    signal. Fails on tasks that are all good or all bad: they add 0 but count.
    """

    whole_groups: ClassVar[bool] = True

    max_length: int = 0
    tau: float = 10.0
    lam: float = 0.1
    beta: float = 1e3
    delta: float = 1e-4

    def __post_init__(self) -> None:
        """Refuse a missing length and scales that are none."""
        require(self.max_length > 0, f"drpo: set max_length, the longest reply; got {self.max_length}")
        for name in ("tau", "lam"):
            require(getattr(self, name) > 0, f"drpo: {name} must be positive, got {getattr(self, name)}")
        for name in ("beta", "delta"):
            require(getattr(self, name) >= 0, f"drpo: {name} must not be negative, got {getattr(self, name)}")

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return each row's share of the loss on all of its tokens."""
        groups_B = inputs.groups_B
        if groups_B is None:
            raise ConfigError("loss.groups", "drpo needs `groups`, the task of each row")
        mask_BT = inputs.mask_BT
        tokens_B = mask_BT.sum(dim=-1)
        valid_B = tokens_B > 0
        good_B = valid_B & (row_mean(inputs.advantages_BT, mask_BT)[:, 0] > 0)
        same_BB = (groups_B.unsqueeze(0) == groups_B.unsqueeze(1)) & valid_B
        score_B = row_mean(inputs.log_prob_BT, mask_BT)[:, 0]
        share_B = _softmax(-tokens_B / (self.max_length * self.lam), same_BB & good_B).diagonal()
        bad_BB = same_BB & ~good_B
        pull_B = self.tau * (_softmax(score_B / self.tau, bad_BB).detach() * (score_B / self.tau)).sum(dim=-1)
        # S/sg S: the value 1 with the gradient of log S.
        contrast_B = score_B - self.tau - (pull_B - pull_B.detach())
        share_B = torch.where(good_B & bad_BB.any(dim=-1), share_B, torch.zeros_like(share_B))
        # A task's rows count 1/size each, so that their sum counts tasks.
        tasks = (valid_B / same_BB.sum(dim=-1).clamp(min=1)).sum().clamp(min=1)
        scale = valid_B.sum() / tasks
        kl = -inputs.raw_log_ratio_BT.sum() / mask_BT.sum().clamp(min=1)
        excess = (self.beta * (kl - self.delta)).detach().clamp(min=0)
        values_B1 = (-scale * share_B * contrast_B).unsqueeze(-1)
        over_BT = (excess > 0).expand_as(mask_BT)
        return TokenLosses(
            values_B1.expand_as(mask_BT) + excess * kl,
            {"actor/drpo_over_budget": over_BT, "actor/ppo_kl": -inputs.raw_log_ratio_BT},
        )


def _softmax(values_B: Tensor, among_BB: Tensor) -> Tensor:
    """Return for each row b the softmax of the values over the columns that b is compared with, else 0."""
    wide_BB = values_B.expand(among_BB.shape).masked_fill(~among_BB, -torch.inf)
    return wide_BB.softmax(dim=-1).nan_to_num(0.0)
