"""From one value per turn to one value per token: the only place where that happens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agentrl.credit.segments import FloatArray
from agentrl.errors import AlignmentError
from agentrl.types import Episode, Turn

__all__ = ["spread"]


def spread(
    episode: Episode,
    values: Sequence[float | None],
    token_offsets: Sequence[FloatArray] | None = None,
) -> list[FloatArray | None]:
    """Return, for each turn, one value per token of its reply: the turn's value where the policy sampled
    the token, 0 where it was forced; None for a turn that is not credited.

    `values` has one entry per turn, `token_offsets` (token-level methods) one array per turn with one
    entry per sampled token. A record without tokens stands for `trainable_tokens` sampled ones.

    Raises:
        AlignmentError: values, masks or offsets of the wrong length: ours, never the user's.
    """
    turns = episode.turns
    if len(values) != len(turns) or (token_offsets is not None and len(token_offsets) != len(turns)):
        raise AlignmentError(
            "credit.spread",
            f"episode {episode.episode_id!r} has {len(turns)} turns but {len(values)} values"
            + ("" if token_offsets is None else f" and {len(token_offsets)} token offsets"),
        )
    spread_K: list[FloatArray | None] = []
    for index, (turn, value) in enumerate(zip(turns, values, strict=True)):
        if value is None:
            spread_K.append(None)
            continue
        sampled_T = np.flatnonzero(_sampled(turn, episode.episode_id))
        value_T = np.zeros(len(turn.sampled) if turn.sampled is not None else len(sampled_T))
        value_T[sampled_T] = value
        if token_offsets is not None:
            offset_T = token_offsets[index]
            if len(offset_T) != len(sampled_T):
                raise AlignmentError(
                    "credit.spread",
                    f"turn {turn.index} of episode {episode.episode_id!r} has {len(sampled_T)} sampled "
                    f"tokens but {len(offset_T)} token offsets",
                )
            value_T[sampled_T] += offset_T
        spread_K.append(value_T)
    return spread_K


def _sampled(turn: Turn, episode_id: str) -> Sequence[int]:
    if turn.sampled is None:
        return [1] * turn.trainable_tokens
    if turn.token_ids is not None and len(turn.token_ids) != len(turn.sampled):
        raise AlignmentError(
            "credit.spread",
            f"turn {turn.index} of episode {episode_id!r} has {len(turn.token_ids)} tokens "
            f"but a sampled mask of {len(turn.sampled)}",
        )
    return turn.sampled
