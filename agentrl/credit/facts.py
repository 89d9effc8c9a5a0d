"""Columns over episodes (_E) and tokens (_T) that several methods read from the records."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, cast

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.segments import BoolArray, FloatArray, IntArray, episode_sums
from agentrl.errors import ConfigError
from agentrl.types import Episode

__all__ = [
    "correct_E",
    "fact",
    "format_ok_E",
    "length_E",
    "numbers_E",
    "over_tokens",
    "token_labels",
    "tokens_T",
    "tool_calls_N",
]


def fact(episode: Episode, key: str) -> Any:
    """Return what the record says under `key`, in its metadata or beside our keys; None: nothing."""
    return episode.metadata.get(key, episode.extra.get(key))


def correct_E(batch: Batch) -> BoolArray:
    """Whether each episode was judged correct."""
    return np.array([episode.correct is True for episode in batch.episodes], dtype=np.bool_)


def format_ok_E(batch: Batch) -> BoolArray:
    """Whether each episode kept to the format."""
    return np.array([episode.format_ok is True for episode in batch.episodes], dtype=np.bool_)


def tool_calls_N(batch: Batch) -> FloatArray:
    """Number of tool calls of each turn."""
    return np.fromiter((turn.tool_calls for turn in batch.turns), np.float64, batch.size_N)


def length_E(batch: Batch, measure: str = "tokens") -> FloatArray:
    """How long each episode is, in trainable tokens, tool calls or turns."""
    if measure == "tool_calls":
        return episode_sums(tool_calls_N(batch), batch.offsets_E1)
    if measure == "turns":
        return np.diff(batch.offsets_E1).astype(np.float64)
    return episode_sums(batch.tokens_N.astype(np.float64), batch.offsets_E1)


def numbers_E(batch: Batch, key: str) -> FloatArray:
    """Return a number that each record gives under `key`.

    Raises:
        ConfigError: an episode has none, or something else than a finite number (the record's author).
    """
    return np.array([_number(fact(e, key), key, e.episode_id) for e in batch.episodes], dtype=np.float64)


def tokens_T(batch: Batch, key: str) -> FloatArray:
    """Concatenate a per-token list of every turn: one value for each trainable token.

    Raises:
        ConfigError: a list is missing, of the wrong length or holds something else than numbers.
    """
    lists: list[Sequence[float]] = []
    for episode in batch.episodes:
        for turn in episode.turns:
            given: Any = getattr(turn, key, None) if hasattr(turn, key) else turn.extra.get(key)
            if (
                not isinstance(given, list | tuple)
                or len(cast("Sequence[Any]", given)) != turn.trainable_tokens
            ):
                raise ConfigError(
                    "credit.token_list",
                    f"turn {turn.index} of episode {episode.episode_id!r} needs {key!r}: a list with one "
                    f"number for each of its {turn.trainable_tokens} trainable tokens",
                    {"episode_id": episode.episode_id, "turn": turn.index},
                )
            lists.append(cast("Sequence[float]", given))
    try:
        values_T = np.fromiter(chain.from_iterable(lists), np.float64)
    except (TypeError, ValueError) as error:
        raise ConfigError(
            "credit.token_list", f"{key!r} holds something else than numbers: {error}"
        ) from None
    if not np.isfinite(values_T).all():
        raise ConfigError("credit.not_finite", f"{key!r} holds numbers that are not finite")
    return values_T


def token_labels(batch: Batch) -> IntArray:
    """Which turn each trainable token is in, [T]."""
    return np.repeat(np.arange(batch.size_N), batch.tokens_N)


def over_tokens(batch: Batch, value_T: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Cut a value per token into its mean over each turn [N] and what each token adds to that [T]."""
    label_T = token_labels(batch)
    sums_N = np.bincount(label_T, weights=value_T, minlength=batch.size_N)
    mean_N = sums_N / np.maximum(batch.tokens_N, 1)
    return mean_N, value_T - mean_N[label_T]


def _number(value: Any, key: str, episode_id: str) -> float:
    if not isinstance(value, int | float) or not np.isfinite(value):
        raise ConfigError(
            "credit.missing",
            f"episode {episode_id!r} needs a finite number {key!r} in its metadata, got {value!r}",
            {"episode_id": episode_id},
        )
    return float(value)
