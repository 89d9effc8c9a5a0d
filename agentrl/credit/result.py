"""What credit assignment gives: an advantage for each turn, and where it came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from agentrl.credit.segments import BoolArray, FloatArray, IntArray
from agentrl.types import Episode

__all__ = ["ChannelCredit", "CreditResult"]


@dataclass(frozen=True, slots=True)
class ChannelCredit:
    """One channel's advantage, before its weight; each channel has a loss of its own.

    `credited_N` says which turns that loss covers. `token_T` holds what token-level methods add to single
    trainable tokens (all turns concatenated, `CreditResult.token_offsets_N1`), or None.
    """

    name: str
    weight: float
    advantage_N: FloatArray
    credited_N: BoolArray
    token_T: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class CreditResult:
    """Credit for every turn of every episode that was given, in the order given.

    `terms` are weighted contributions; `advantage_N` is defined as their sum, added in order, so it
    equals it to the last bit. `credited_N` is False for turns of episodes that failed or were not
    selected, and for turns that no channel covers: there the arrays hold 0 but the advantage is *absent*,
    and every list made from them says None.
    """

    episodes: tuple[Episode, ...]
    offsets_E1: IntArray
    advantage_N: FloatArray
    credited_N: BoolArray
    terms: Mapping[str, FloatArray]
    channels: tuple[ChannelCredit, ...]
    memory: Mapping[str, Any]
    metrics: Mapping[str, float]
    token_offsets_N1: IntArray | None = None

    def advantages(self) -> list[list[float | None]]:
        """Return the total advantage by episode and turn, None where not credited."""
        return self.by_episode(self.advantage_N, self.credited_N)

    def by_episode(self, value_N: FloatArray, credited_N: BoolArray) -> list[list[float | None]]:
        """Cut a column over turns into one list per episode, None where not credited."""
        values = [
            value if credited else None
            for value, credited in zip(value_N.tolist(), credited_N.tolist(), strict=True)
        ]
        bounds = self.offsets_E1.tolist()
        return [values[start:stop] for start, stop in pairwise(bounds)]

    def token_offsets(self, channel: ChannelCredit) -> list[list[FloatArray]] | None:
        """Cut a channel's token-level part by episode and turn, as `spread` takes it."""
        if channel.token_T is None or self.token_offsets_N1 is None:
            return None
        turns = np.split(channel.token_T, self.token_offsets_N1[1:-1])
        bounds = self.offsets_E1.tolist()
        return [turns[start:stop] for start, stop in pairwise(bounds)]

    def token_advantages(self) -> list[list[list[float]]] | None:
        """Return the advantage of every trainable token by episode and turn; None where turns say it all."""
        offsets_N1 = self.token_offsets_N1
        if offsets_N1 is None:
            return None
        total_T = np.repeat(self.advantage_N, np.diff(offsets_N1))
        for channel in self.channels:
            if channel.token_T is not None:
                total_T += channel.weight * channel.token_T
        turns = [part.tolist() for part in np.split(total_T, offsets_N1[1:-1])]
        return [turns[start:stop] for start, stop in pairwise(self.offsets_E1.tolist())]

    def records(self) -> Iterator[dict[str, Any]]:
        """Yield one plain record per episode: what `agentrl credit` writes.

        Where a method tells tokens apart, a credited turn also has `token_advantages`.
        """
        tokens = self.token_advantages()
        total = self.advantages()
        terms = {name: self.by_episode(term_N, self.credited_N) for name, term_N in self.terms.items()}
        channels = {c.name: self.by_episode(c.advantage_N, c.credited_N) for c in self.channels}
        for number, episode in enumerate(self.episodes):
            yield {
                "episode_id": episode.episode_id,
                "turns": [
                    {
                        "index": turn.index,
                        "advantage": total[number][k],
                        "terms": {name: term[number][k] for name, term in terms.items()}
                        if total[number][k] is not None
                        else {},
                    }
                    | (
                        {"token_advantages": tokens[number][k]}
                        if tokens is not None and total[number][k] is not None
                        else {}
                    )
                    for k, turn in enumerate(episode.turns)
                ],
                "channels": {name: values[number] for name, values in channels.items()},
            }
