"""DRPO: length re-weights correct answers among themselves and never turns one against another."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, length_E, tokens_T
from agentrl.credit.norm import group_stats
from agentrl.credit.options import Positive
from agentrl.credit.segments import BoolArray, FloatArray, IntArray, group_sums
from agentrl.credit.stages import Estimate, Scores
from agentrl.credit.traits import traits

__all__ = ["drpo"]


@traits(needs=("correct", "logprobs"))
def drpo(
    scores: Scores,
    batch: Batch,
    *,
    tau: Positive = 10.0,
    lambda_: Positive = 0.1,
    max_response_length_for_length_ratio: Positive = 4096.0,
) -> Estimate:
    """A_i = w_i / sum_pos w for correct i, -softmax_neg(s_i / tau) for wrong i   [N]

    DRPO, arXiv 2510.04474: the gradient of its objective with respect to s_i, the mean log-prob of
    the response (as sampled); w_i = exp((1 - len_i / max_length) / lambda). A group that is all correct or
    all wrong gives 0. The loss that belongs to it is -A times the mean log-prob of each episode, averaged
    over tasks (`gpg`, seq-mean-token-mean), with a hard KL constraint.

    Failure case: a small lambda leaves only the shortest correct answer to learn from.
    """
    correct, group_E = correct_E(batch), batch.group_E
    length = length_E(batch)
    totals_E = np.bincount(
        np.repeat(batch.episode_N, batch.tokens_N), tokens_T(batch, "logprobs"), minlength=len(batch)
    )
    level_E = totals_E / np.maximum(length, 1.0)
    brevity_E = (1.0 - length / max_response_length_for_length_ratio) / lambda_
    advantage_E = _softmax(brevity_E, group_E, correct) - _softmax(level_E / tau, group_E, ~correct)
    mixed_G = ~group_stats(correct.astype(np.float64), group_E).constant_G
    return Estimate(np.where(mixed_G[group_E], advantage_E, 0.0)[batch.episode_N])


def _softmax(value_E: FloatArray, group_E: IntArray, member_E: BoolArray) -> FloatArray:
    top_G = np.full(int(group_E.max()) + 1, -np.inf)
    np.maximum.at(top_G, group_E[member_E], value_E[member_E])
    top_E = top_G[group_E]
    share_E = np.zeros(len(value_E))
    share_E[member_E] = np.exp(value_E[member_E] - top_E[member_E])
    sums_G = group_sums(group_E, share_E, len(top_G))
    return share_E / np.where(sums_G > 0, sums_G, 1.0)[group_E]
