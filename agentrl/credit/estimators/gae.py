"""Compare with what a critic expected, step by step."""

from __future__ import annotations

from itertools import pairwise
from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import over_tokens, tokens_T
from agentrl.credit.options import Fraction
from agentrl.credit.segments import BoolArray, FloatArray, IntArray
from agentrl.credit.stages import Estimate, Scores
from agentrl.credit.traits import check_needs, traits

__all__ = ["gae"]


@traits(discounts=True)
def gae(
    scores: Scores,
    batch: Batch,
    *,
    gamma: Fraction = 1.0,
    lambda_: Fraction = 1.0,
    level: Literal["token", "turn"] = "token",
    truncated: Literal["fail", "bootstrap"] = "fail",
) -> Estimate:
    """A_j = d_j + gamma lambda A_{j+1},  d_j = r_j + gamma V_{j+1} - V_j   [N] and [T]

    GAE, arXiv 1506.02438, over the trainable tokens of an episode (`values` of every turn: one a
    token), with tool tokens squeezed out so that the next value is carried over them; a turn's reward
    falls on its last token. "turn": over turns, `value` of every turn, e.g. the mean outcome of rollouts
    from there (MC-Critic). At the end V = 0; with truncated "bootstrap" an episode that a limit cut off
    ends in its own last value (EGAE, T-PPO, arXiv 2506.15050) instead of counting as a failure.

    A turn's advantage is the mean over its tokens. Failure case: an untrained critic is noise added to
    every token.
    """
    check_needs("gae", ("turn.values" if level == "token" else "turn.value",), batch.episodes)
    reward_N = scores.turn_N + scores.local_N
    cut_E = np.array([e.truncated and truncated == "bootstrap" for e in batch.episodes], dtype=np.bool_)
    if level == "turn":
        value_N = np.array([float(turn.extra["value"]) for turn in batch.turns], dtype=np.float64)
        return Estimate(_advantages(reward_N, value_N, batch.offsets_E1, cut_E, gamma, lambda_))
    last_T = batch.token_offsets_N1[1:] - 1
    reward_T = np.zeros(int(batch.token_offsets_N1[-1]))
    spoken_N = batch.tokens_N > 0
    reward_T[last_T[spoken_N]] = reward_N[spoken_N]
    bounds_E1 = batch.token_offsets_N1[batch.offsets_E1]
    advantage_T = _advantages(reward_T, tokens_T(batch, "values"), bounds_E1, cut_E, gamma, lambda_)
    return Estimate(*over_tokens(batch, advantage_T))


def _advantages(
    reward: FloatArray, value: FloatArray, bounds_E1: IntArray, cut_E: BoolArray, gamma: float, lam: float
) -> FloatArray:
    following = np.append(value[1:], 0.0)
    ends = bounds_E1[1:] - 1
    there = np.diff(bounds_E1) > 0
    following[ends[there]] = np.where(cut_E[there], value[ends[there]], 0.0)
    advantage = (reward + gamma * following - value).tolist()
    for start, stop in pairwise(bounds_E1.tolist()):
        for j in range(stop - 2, start - 1, -1):
            advantage[j] += gamma * lam * advantage[j + 1]
    return np.array(advantage, dtype=np.float64)
