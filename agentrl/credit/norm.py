"""The one function behind most estimators: compare a value with the others of its group.

    a_i = (x_i - centre_g) / scale_g,   g = label_i

Nothing here is weighted behind the reader's back: what counts in the statistics, and how much, are the
arguments `weight` and `members`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from agentrl.credit.segments import BoolArray, FloatArray, IntArray, group_sums

__all__ = ["GroupStats", "group_stats", "groupwise_norm"]

Centre = Literal["mean", "leave_one_out"]
Scale = Literal["none", "std"]
Singleton = Literal["zero", "raw"]


@dataclass(frozen=True, slots=True)
class GroupStats:
    """Statistics of each of G groups over its counted rows (members of positive weight).

    `weight_G` is the sum of weights, `count_G` the number of counted rows. In a constant group
    (max == min) `mean_G` is that value to the last bit and `variance_G` exactly 0.
    """

    count_G: IntArray
    weight_G: FloatArray
    mean_G: FloatArray
    variance_G: FloatArray
    constant_G: BoolArray


def group_stats(
    value_N: FloatArray,
    label_N: IntArray,
    *,
    weight_N: FloatArray | None = None,
    member_N: BoolArray | None = None,
    ddof: int = 1,
) -> GroupStats:
    """Return weighted mean and variance of each group; labels are 0..G-1, dense or nearly so.

    mu_g = sum w x / W_g and var_g = sum w (x - mu_g)^2 / (W_g - ddof) with W_g = sum w: a weight counts
    like a repetition. Deviations are taken from a row of the group before they are summed, so a large
    common offset costs no precision and equal values need no tolerance. Linear in N.
    """
    groups = int(label_N.max()) + 1 if len(label_N) else 0
    w_N = np.ones(len(value_N)) if weight_N is None else weight_N
    if member_N is not None:
        w_N = np.where(member_N, w_N, 0.0)
    if weight_N is not None or member_N is not None:
        counted_N = w_N > 0
        label_N, value_N, w_N = label_N[counted_N], value_N[counted_N], w_N[counted_N]
    anchor_G = np.zeros(groups)
    anchor_G[label_N] = value_N
    offset_N = value_N - anchor_G[label_N]

    count_G = np.bincount(label_N, minlength=groups)
    weight_G = group_sums(label_N, w_N, groups)
    shift_G = group_sums(label_N, w_N * offset_N, groups) / np.where(count_G > 0, weight_G, 1.0)
    deviation_N = offset_N - shift_G[label_N]
    freedom_G = weight_G - ddof
    variance_G = group_sums(label_N, w_N * deviation_N**2, groups) / np.where(freedom_G > 0, freedom_G, 1.0)
    constant_G = group_sums(label_N, offset_N != 0, groups) == 0
    shift_G[constant_G] = 0.0
    variance_G[constant_G | (freedom_G <= 0)] = 0.0
    return GroupStats(count_G, weight_G, anchor_G + shift_G, variance_G, constant_G)


def groupwise_norm(
    value_N: FloatArray,
    label_N: IntArray,
    *,
    weight_N: FloatArray | None = None,
    member_N: BoolArray | None = None,
    centre: Centre = "mean",
    scale: Scale = "std",
    ddof: int = 1,
    epsilon: float = 1e-6,
    variance_epsilon: float = 0.0,
    singleton: Singleton = "zero",
) -> FloatArray:
    """Return each row's value relative to its group, [N].

    scale "std": (x - mu) / (sqrt(var + variance_epsilon) + epsilon); "none": x - mu. Centre
    "leave_one_out" compares with the mean of the *other* rows: (x - mu) W / (W - 1). Rows of weight 0
    (padding, or turns whose episode is already counted once) are compared but do not count; rows that
    are not members get 0 and do not count.

    Where there is nothing to compare with, the result is exactly 0: no counted row, a constant group
    divided by its std, and a group of one counted row unless singleton is "raw" (centre 0 and scale
    1 + epsilon, as several released codes do).
    """
    stats = group_stats(value_N, label_N, weight_N=weight_N, member_N=member_N, ddof=ddof)
    single_G = stats.count_G == 1
    factor_G = np.ones(len(stats.count_G))
    centre_G = stats.mean_G
    if scale == "std":
        factor_G = 1.0 / np.where(
            stats.constant_G, 1.0, np.sqrt(stats.variance_G + variance_epsilon) + epsilon
        )
        factor_G[stats.constant_G] = 0.0
    if centre == "leave_one_out":
        others_G = np.where(stats.weight_G > 1, stats.weight_G - 1, 1.0)
        factor_G = factor_G * stats.weight_G / others_G
    factor_G = np.where(stats.count_G == 0, 0.0, factor_G)
    if singleton == "raw":
        centre_G = np.where(single_G, 0.0, centre_G)
        factor_G = np.where(single_G, 1.0 / (1.0 + epsilon) if scale == "std" else 1.0, factor_G)
    else:
        factor_G = np.where(single_G, 0.0, factor_G)
    result_N = (value_N - centre_G[label_N]) * factor_G[label_N]
    return result_N if member_N is None else np.where(member_N, result_N, 0.0)
