"""A price for each kind of mistake in a tool call."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Scores
from agentrl.errors import ConfigError

__all__ = ["error_categories"]


def error_categories(batch: Batch, *, penalties: dict[str, NonNegative] | None = None) -> Scores:
    """local_{i,t} = -penalties[error_category of turn t], 0 for a turn without one   [N]

    After TL-Training, arXiv 2412.15495: calls that cannot be parsed, name no tool, or have wrong arguments
    are different mistakes. The environment writes `error_category` into the turn. A category that is not
    listed is refused. Failure case: prices that outweigh the outcome teach the agent to call nothing.
    """
    listed = penalties or {"parse": 1.0, "unknown_tool": 0.8, "wrong_arguments": 0.5, "repeated": 0.2}
    local: list[float] = []
    for episode in batch.episodes:
        for turn in episode.turns:
            category = turn.extra.get("error_category")
            if category is not None and category not in listed:
                raise ConfigError(
                    "credit.error_category",
                    f"turn {turn.index} of episode {episode.episode_id!r} has the error_category "
                    f"{category!r}; penalties lists {', '.join(listed)}",
                )
            local.append(0.0 if category is None else -listed[category])
    return Scores.of_local(batch, np.array(local, dtype=np.float64))
