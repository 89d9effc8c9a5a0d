"""ASPO: among correct episodes, move credit towards those that call a tool early."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E
from agentrl.credit.norm import group_stats
from agentrl.credit.stages import Scores, Shaped
from agentrl.credit.traits import traits
from agentrl.types import Episode, Turn

__all__ = ["aspo"]


@traits(needs=("correct",))
def aspo(
    shaped: Shaped,
    scores: Scores,
    batch: Batch,
    *,
    delta: float = -2.0,
    k: Annotated[float, Field(ge=0, lt=1)] = 0.7,
) -> Shaped:
    """A'_i = A_i + clip(delta (p_i - mean p) / mean L, -k |A_i|, k |A_i|)   [N], arXiv 2508.19201

    For correct episodes with a tool call; p is the token at which the first one starts, L the length in
    tokens, the means are over such episodes of the group. delta < 0 favours early calls. With k < 1 no
    sign changes, and a group that is correct throughout (A = 0) is not shaped at all. A call whose
    `tool_call_at` is not recorded counts from the start of its turn. Failure case: a task whose tools can
    only be used late looks like one that is played badly.
    """
    first = [_first_call(episode) for episode in batch.episodes]
    length_E = np.array([float(sum(map(_tokens, e.turns))) for e in batch.episodes])
    eligible_E = correct_E(batch) & np.array([p is not None for p in first], dtype=np.bool_)
    position_E = np.array([0.0 if p is None else p for p in first])
    mean_E = group_stats(position_E, batch.group_E, member_N=eligible_E).mean_G[batch.group_E]
    scale_E = group_stats(length_E, batch.group_E, member_N=eligible_E).mean_G[batch.group_E]
    bonus_E = np.where(eligible_E, delta * (position_E - mean_E) / np.where(scale_E > 0, scale_E, 1.0), 0.0)
    bound_N = k * np.abs(shaped.total_N())
    bonus_N = np.clip(bonus_E[batch.episode_N], -bound_N, bound_N)
    return replace(shaped, terms={**shaped.terms, "aspo": bonus_N})


def _first_call(episode: Episode) -> float | None:
    before = 0
    for turn in episode.turns:
        if turn.tool_calls or turn.tool_call_at is not None:
            return float(before + (turn.tool_call_at or 0))
        before += _tokens(turn)
    return None


def _tokens(turn: Turn) -> int:
    return turn.trainable_tokens if turn.token_ids is None else len(turn.token_ids)
