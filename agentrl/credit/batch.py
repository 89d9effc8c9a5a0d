"""A ragged batch: episodes as columns over episodes (_E) and turns (_N), no padding.

Rows are episode by episode, turns in time order: turns `offsets_E1[i]` up to `offsets_E1[i + 1]` are
those of episode i. Columns are read from the episodes when a method first asks for them.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from operator import attrgetter
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from agentrl.credit.segments import BoolArray, FloatArray, IntArray, episode_sums
from agentrl.errors import ConfigError
from agentrl.types import Episode, Turn

__all__ = ["Batch"]

Scalar = TypeVar("Scalar", bound=np.generic)


# No slots: cached_property keeps each column in the instance's dictionary.
@dataclass(frozen=True)
class Batch:
    """Episodes that are compared with each other; methods never see those that failed."""

    episodes: tuple[Episode, ...]

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def turns(self) -> Iterable[Turn]:
        """Every turn, in row order."""
        return chain.from_iterable(episode.turns for episode in self.episodes)

    def take(self, keep_E: BoolArray) -> Batch:
        """Return the batch of the episodes that are kept."""
        return Batch(tuple(self.episodes[i] for i in np.flatnonzero(keep_E)))

    @cached_property
    def offsets_E1(self) -> IntArray:
        """Boundaries of the episodes in the turns, [E + 1]."""
        return _offsets([len(episode.turns) for episode in self.episodes])

    @cached_property
    def size_N(self) -> int:
        """Number of turns."""
        return int(self.offsets_E1[-1])

    @cached_property
    def episode_N(self) -> IntArray:
        """Which episode each turn is in, 0..E-1."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets_E1))

    @cached_property
    def group_E(self) -> IntArray:
        """Which group each episode is in, numbered by first appearance."""
        numbers: dict[str, int] = {}
        return np.array([numbers.setdefault(e.group_id, len(numbers)) for e in self.episodes], dtype=np.int64)

    @cached_property
    def group_N(self) -> IntArray:
        """Which group each turn is in."""
        return self.group_E[self.episode_N]

    @cached_property
    def first_N(self) -> BoolArray:
        """True on the first turn of every episode."""
        return self._at(self.offsets_E1[:-1])

    @cached_property
    def last_N(self) -> BoolArray:
        """True on the last turn of every episode."""
        return self._at(self.offsets_E1[1:] - 1)

    @cached_property
    def reward_N(self) -> FloatArray:
        """What the environment paid for each turn."""
        reward_N = self._column("reward", np.float64)
        self._check_finite(reward_N, self.episode_N, "reward")
        return reward_N

    @cached_property
    def return_E(self) -> FloatArray:
        """The return of each episode: the recorded one, else the sum of its rewards."""
        return_E = episode_sums(self.reward_N, self.offsets_E1)
        for number, episode in enumerate(self.episodes):
            if episode.episode_return is not None:
                return_E[number] = episode.episode_return
        self._check_finite(return_E, np.arange(len(self)), "return")
        return return_E

    @cached_property
    def action_valid_N(self) -> BoolArray:
        """Whether the environment could read each turn's action."""
        return self._column("action_valid", np.bool_)

    @cached_property
    def tokens_N(self) -> IntArray:
        """Number of trainable tokens of each turn."""
        return self._column("trainable_tokens", np.int64)

    @cached_property
    def token_offsets_N1(self) -> IntArray:
        """Boundaries of the turns in the trainable tokens, [N + 1]."""
        return _offsets(self.tokens_N)

    def _column(self, attribute: str, dtype: type[Scalar]) -> npt.NDArray[Scalar]:
        return np.fromiter(map(attrgetter(attribute), self.turns), dtype, self.size_N)

    def _at(self, index_E: IntArray) -> BoolArray:
        marked_N = np.zeros(self.size_N, dtype=np.bool_)
        marked_N[index_E[np.diff(self.offsets_E1) > 0]] = True
        return marked_N

    def _check_finite(self, values: FloatArray, episode: IntArray, what: str) -> None:
        bad = np.flatnonzero(~np.isfinite(values))
        if len(bad):
            culprit = self.episodes[int(episode[bad[0]])].episode_id
            raise ConfigError(
                "credit.not_finite",
                f"episode {culprit!r} has a {what} of {values[bad[0]]}; credit needs finite numbers "
                "(mark the episode with an error to leave it out)",
                {"episode_id": culprit},
            )


def _offsets(lengths: Sequence[int] | IntArray) -> IntArray:
    return np.concatenate([np.zeros(1, dtype=np.int64), np.cumsum(np.asarray(lengths, dtype=np.int64))])
