"""IGPO: pay a turn for how much likelier it made the gold answer."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["information_gain"]


@traits(needs=("gold_logprob",))
def information_gain(
    batch: Batch,
    *,
    information_gain: Literal["prob_diff", "log_prob_diff"] = "prob_diff",
    zero_gain: Literal["no_reward", "reward"] = "no_reward",
) -> Scores:
    """r_{i,t} = p_{i,t+1} - p_{i,t},  p_{i,t} = exp(gold_logprob of turn t), for t < T_i   [N]

    IGPO, arXiv 2510.14967; "log_prob_diff" leaves out the exp. gold_logprob is the mean log-prob
    of the gold answer's tokens given everything before the turn, so the last turn has no gain and is no
    member. A gain of exactly 0 is no reward either, as in the release ("reward" counts it). An episode
    that a limit cut before all its turns were scored has no gains.

    Failure case: a policy that reads the answer out of the question raises p without searching.
    """
    known = [turn.gold_logprob for turn in batch.turns]
    level_N = np.array([np.nan if value is None else value for value in known], dtype=np.float64)
    if information_gain == "prob_diff":
        level_N = np.exp(level_N)
    gain_N = np.zeros(batch.size_N)
    gain_N[:-1] = level_N[1:] - level_N[:-1]
    unscored_E = np.bincount(batch.episode_N, weights=np.isnan(level_N), minlength=len(batch)) > 0
    member_N = ~batch.last_N & ~unscored_E[batch.episode_N]
    if zero_gain == "no_reward":
        member_N &= gain_N != 0
    gain_N = np.where(member_N, gain_N, 0.0)
    mean = float(gain_N[member_N].mean()) if member_N.any() else 0.0
    return Scores.of_turns(
        batch, gain_N, member_N=member_N, metrics={"mean": mean, "share": float(member_N.mean())}
    )
