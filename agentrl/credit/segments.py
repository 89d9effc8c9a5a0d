"""Sums over ragged segments, in linear time and float64.

Two layouts: *labels*, an integer for every row saying which group it is in (any order), and *offsets*,
the E + 1 boundaries of E contiguous episodes.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["BoolArray", "FloatArray", "IntArray", "discounted_returns", "episode_sums", "group_sums"]

FloatArray: TypeAlias = npt.NDArray[np.float64]
IntArray: TypeAlias = npt.NDArray[np.int64]
BoolArray: TypeAlias = npt.NDArray[np.bool_]

VECTOR_MIN_EPISODES = 32
"""Fewer running episodes than this are faster in a plain loop than in three array operations."""


def group_sums(label_N: IntArray, value_N: FloatArray | BoolArray, groups: int) -> FloatArray:
    """Return sum over {i: label_i = g} of value_i, for g in 0..groups-1; shape [groups]."""
    return np.bincount(label_N, weights=value_N, minlength=groups).astype(np.float64, copy=False)


def episode_sums(value_N: FloatArray, offsets_E1: IntArray) -> FloatArray:
    """Return the sum of each episode's turns, [E]; an episode without turns sums to 0."""
    episodes = len(offsets_E1) - 1
    return group_sums(np.repeat(np.arange(episodes), np.diff(offsets_E1)), value_N, episodes)


def discounted_returns(reward_N: FloatArray, offsets_E1: IntArray, gamma: float) -> FloatArray:
    """Return D_t = r_t + gamma D_{t+1} within each episode, [N]; linear in N.

    All episodes advance together, one turn at a time from their ends. The few that outlast the rest
    finish in a plain loop, so one very long episode costs no more than its own length. Both do the same
    two float operations per turn, hence give the same bits as the definition.
    """
    return_N = reward_N.copy()
    length_E = np.diff(offsets_E1)
    by_length_E = np.argsort(-length_E, kind="stable")
    last_E = offsets_E1[1:][by_length_E] - 1
    # running_K[k]: how many episodes have more than k turns
    running_K = len(length_E) - np.cumsum(np.bincount(length_E))
    back = 1
    while back < len(running_K) and running_K[back] >= VECTOR_MIN_EPISODES:
        turn = last_E[: running_K[back]] - back
        return_N[turn] += gamma * return_N[turn + 1]
        back += 1
    for episode in by_length_E[: running_K[back] if back < len(running_K) else 0]:
        start, stop = int(offsets_E1[episode]), int(offsets_E1[episode + 1]) - back
        following = float(return_N[stop])
        values = return_N[start:stop].tolist()
        for turn in range(len(values) - 1, -1, -1):
            values[turn] = following = values[turn] + gamma * following
        return_N[start:stop] = values
    return return_N
