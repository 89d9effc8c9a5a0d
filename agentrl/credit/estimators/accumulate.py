"""Compare single turn rewards within a task, then add up what follows each turn."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import groupwise_norm
from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.segments import BoolArray, FloatArray
from agentrl.credit.stages import Estimate, Scores
from agentrl.credit.traits import traits

__all__ = ["accumulate"]


@traits(discounts=True)
def accumulate(
    scores: Scores,
    batch: Batch,
    *,
    normalisation: Literal["joint", "separate"] = "joint",
    scale: Literal["std", "none"] = "std",
    gamma: Fraction = 1.0,
    outcome_weight: NonNegative = 1.0,
    information_gain_weight: NonNegative = 1.0,
    epsilon: NonNegative = 1e-6,
    variance_epsilon: NonNegative = 1e-8,
) -> Estimate:
    """A_{i,t} = z_{i,t} + gamma A_{i,t+1},  z = (x - mean_g) / (sqrt(var_g + 1e-8) + epsilon)   [N]

    IGPO, arXiv 2510.14967, Eq. 6-7: normalise, then accumulate; var is the population's. "joint": all
    rewards of a task share the statistics; "separate": those of last turns and those of earlier turns have
    their own. x = weight r: as in the released code a weight acts before the division, so under "separate"
    with "std" it changes nothing but the 1e-8's part. A turn without a reward is no step of the recursion:
    it receives the next turn's advantage undiscounted (0 where none follows). Equal rewards give exactly 0.

    Failure case: "separate" divides gains that hardly differ by a tiny std and makes noise of them.
    """
    last_N = batch.last_N
    member_N = np.ones(batch.size_N, dtype=np.bool_) if scores.member_N is None else scores.member_N
    label_N = batch.group_N if normalisation == "joint" else 2 * batch.group_N + last_N
    weight_N = np.where(last_N, outcome_weight, information_gain_weight)
    z_N = groupwise_norm(
        weight_N * (scores.turn_N + scores.local_N),
        label_N,
        member_N=member_N,
        scale=scale,
        ddof=0,
        epsilon=epsilon,
        variance_epsilon=variance_epsilon,
    )
    return Estimate(_accumulated(z_N, member_N, batch, gamma))


def _accumulated(z_N: FloatArray, member_N: BoolArray, batch: Batch, gamma: float) -> FloatArray:
    advantages: list[float] = []
    following = 0.0
    rows = zip(z_N[::-1].tolist(), member_N[::-1].tolist(), batch.last_N[::-1].tolist(), strict=True)
    for z, member, last in rows:
        following = 0.0 if last else following
        following = z + gamma * following if member else following
        advantages.append(following)
    return np.array(advantages[::-1])
