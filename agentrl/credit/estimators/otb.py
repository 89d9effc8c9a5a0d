"""The optimal token baseline: the group's reward-to-go, weighed by how surprising its tokens were."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import over_tokens, tokens_T
from agentrl.credit.norm import group_stats
from agentrl.credit.options import NonNegative
from agentrl.credit.segments import discounted_returns, group_sums
from agentrl.credit.stages import Estimate, Scores
from agentrl.credit.traits import traits

__all__ = ["otb"]


@traits(needs=("logprobs", "turn.sum_pi_squared"))
def otb(
    scores: Scores,
    batch: Batch,
    *,
    handle_zero_tail: bool = True,
    uses_is_weight: bool = False,
    epsilon: NonNegative = 1e-8,
) -> Estimate:
    """A_{j,k} = G_{j,k} - B_k,  B_k = sum_j W_{j,k} G_{j,k} / (sum_j W_{j,k} + epsilon)   [N] and [T]

    Over group members j that have a k-th trainable token (tool tokens squeezed out); G is the reward to
    go, W_{j,k} = sum_{k' <= k} (1 - 2 pi + sum_v pi_v^2) v^2 with pi = exp(logprobs), `sum_pi_squared` of
    every turn, and v the turn's `is_weight` per token where `uses_is_weight`. Source: verl,
    `compute_multi_turn_optimal_token_baseline_advantage`. B = 0 for a group of one, and (with
    `handle_zero_tail`) where only the longest member is left, so that its tail keeps its reward. Equal
    rewards to go give exactly 0.

    Failure case: tokens at equal places of different episodes need not have anything in common.
    """
    pi_T = np.exp(tokens_T(batch, "logprobs"))
    energy_T = 1.0 - 2.0 * pi_T + tokens_T(batch, "sum_pi_squared")
    if uses_is_weight:
        energy_T = energy_T * tokens_T(batch, "is_weight") ** 2
    bounds_E1 = batch.token_offsets_N1[batch.offsets_E1]
    reward_T = np.zeros(len(pi_T))
    spoken_N = batch.tokens_N > 0
    reward_T[(batch.token_offsets_N1[1:] - 1)[spoken_N]] = (scores.turn_N + scores.local_N)[spoken_N]
    to_go_T = discounted_returns(reward_T, bounds_E1, 1.0)

    length_E = np.diff(bounds_E1)
    episode_T = np.repeat(np.arange(len(batch)), length_E)
    place_T = np.arange(len(pi_T)) - bounds_E1[episode_T]
    weight_T = np.concatenate([[0.0], np.cumsum(energy_T)])
    weight_T = weight_T[1:] - weight_T[bounds_E1[episode_T]]
    longest = int(length_E.max()) if len(length_E) else 0
    label_T = batch.group_E[episode_T] * longest + place_T
    size = (int(batch.group_E.max()) + 1) * longest
    weight_L = group_sums(label_T, weight_T, size)
    baseline_L = group_sums(label_T, weight_T * to_go_T, size) / (weight_L + epsilon)
    stats = group_stats(to_go_T, label_T)
    constant_L = stats.constant_G & (stats.count_G > 0)
    baseline_L[: len(constant_L)][constant_L] = stats.mean_G[constant_L]
    alone_T = stats.count_G[label_T] == 1
    if not handle_zero_tail:
        alone_T &= np.bincount(batch.group_E)[batch.group_E[episode_T]] == 1
    return Estimate(*over_tokens(batch, to_go_T - np.where(alone_T, 0.0, baseline_L[label_T])))
