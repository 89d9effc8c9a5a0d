"""Which turns were in the same state: canonical keys and step groups.

A step group holds the turns of one task group whose state keys are equal, across episodes and times, or
(text only) similar. Groups of different tasks are never mixed.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from itertools import count
from typing import Any, cast

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.segments import IntArray
from agentrl.credit.similarity import Clusters
from agentrl.errors import ConfigError

__all__ = ["canonical", "state_labels"]

TAGS = frozenset({"tuple", "array", "mapping"})


def canonical(key: Any) -> Hashable:
    """Return a hashable that is equal exactly for equal states.

    Lists and tuples are equal item by item, mappings whatever their order, 1 == 1.0 == True; an array
    equals the flat tuple of its numbers. In JSON an array is written {"type": "array", "value": [...]};
    "tuple" and "mapping" may be tagged the same way.
    """
    match key:
        case str() | int() | float() | None:
            return key
        case np.generic():
            return cast("Hashable", key.item())
        case np.ndarray():
            return tuple(cast("list[Hashable]", key.ravel().tolist()))
        case {"type": str() as tag, "value": value, **rest} if tag in TAGS and not rest:
            return tuple(_flat(value)) if tag == "array" else canonical(value)
        case Mapping():
            items = cast("Mapping[Hashable, Any]", key).items()
            return frozenset((name, canonical(value)) for name, value in items)
        case Sequence():
            return tuple(canonical(item) for item in cast("Sequence[Any]", key))
        case _:
            raise ConfigError(
                "credit.state_key_type",
                f"a state key is JSON (text, number, list or mapping), got {type(key).__name__}",
            )


def state_labels(batch: Batch, similarity_threshold: float | None = None) -> IntArray:
    """Return the step group of every turn, numbered by first appearance in row order, [N].

    Raises:
        ConfigError: a turn has no state key, or similarity was asked for keys that are not text; the
            environment does not suit the method (the message says which turn).
    """
    new_label = count().__next__
    tables: dict[int, Mapping[Hashable, int]] = {}
    labels: list[int] = []
    for episode, group in zip(batch.episodes, batch.group_E.tolist(), strict=True):
        keys: list[Any] = [turn.state_key for turn in episode.turns]
        if not all(type(key) is str for key in keys):
            keys = [_key(turn.state_key, episode.episode_id, turn.index) for turn in episode.turns]
        table = tables.get(group)
        if table is None:
            table = tables[group] = _table(similarity_threshold, new_label)
        try:
            labels += [table[key] for key in keys]
        except TypeError as error:
            raise ConfigError(
                "credit.state_key_text",
                f"similarity grouping compares texts, but episode {episode.episode_id!r} has a state key "
                f"that is none ({error}); leave out similarity_threshold to compare exactly",
            ) from None
    return np.array(labels, dtype=np.int64)


def _table(threshold: float | None, new_label: Callable[[], int]) -> Mapping[Hashable, int]:
    return defaultdict(new_label) if threshold is None else Clusters(threshold, new_label)


def _key(key: Any, episode_id: str, turn: int) -> Hashable:
    if key is None:
        raise ConfigError(
            "credit.state_key_missing",
            f"turn {turn} of episode {episode_id!r} has no state_key, and step-level credit compares equal "
            "states; let the environment give one, or use an episode-level method such as grpo",
            {"episode_id": episode_id, "turn": turn},
        )
    return canonical(key)


def _flat(value: Any) -> list[Hashable]:
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [number for item in cast("Sequence[Any]", value) for number in _flat(item)]
    return [value]
