"""One named reward of several."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, fact, format_ok_E, length_E
from agentrl.credit.stages import Scores
from agentrl.credit.traits import check_needs
from agentrl.errors import ConfigError

__all__ = ["component"]

NEEDS = {"accuracy": ("correct",), "format": ("format_ok",), "efficiency": ()}


def component(batch: Batch, *, key: str = "accuracy") -> Scores:
    """R_i = rewards[key] of the record   [E]

    Where a record lists no `rewards`, three are known: accuracy = 1[correct], format = 1[format_ok] and
    efficiency = 1 / (tool calls + 1). Used by GDPO, arXiv 2601.05242. Failure case: efficiency speaks
    about wrong episodes too, so doing nothing is efficient; `tool_efficiency` leaves them out.
    """
    listed = [fact(episode, "rewards") for episode in batch.episodes]
    if all(value is None for value in listed):
        return Scores.of_episodes(batch, _known(batch, key))
    return Scores.of_episodes(
        batch, np.array([_read(v, key, e.episode_id) for v, e in zip(listed, batch.episodes, strict=True)])
    )


def _known(batch: Batch, key: str) -> Any:
    if key not in NEEDS:
        raise ConfigError(
            "credit.component",
            f"reward {key!r} is in no record's `rewards`; without them there are {', '.join(NEEDS)}",
        )
    check_needs(f"component {key}", NEEDS[key], batch.episodes)
    if key == "efficiency":
        return 1.0 / (length_E(batch, "tool_calls") + 1.0)
    return (correct_E(batch) if key == "accuracy" else format_ok_E(batch)).astype(np.float64)


def _read(listed: Any, key: str, episode_id: str) -> float:
    rewards = cast("Mapping[str, Any]", listed if isinstance(listed, Mapping) else {})
    value = rewards.get(key)
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise ConfigError(
            "credit.component",
            f"episode {episode_id!r} has no finite reward {key!r}; "
            f"its rewards: {', '.join(rewards) or 'none'}",
            {"episode_id": episode_id},
        )
    return float(value)
