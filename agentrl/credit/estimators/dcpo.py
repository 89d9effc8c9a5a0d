"""DCPO's smooth standardisation: compare with this visit and with all earlier ones."""

from __future__ import annotations

from math import sqrt

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import group_stats
from agentrl.credit.segments import FloatArray, IntArray
from agentrl.credit.stages import Estimate, Memory, Scores

__all__ = ["dcpo"]


def dcpo(scores: Scores, batch: Batch, *, divide_by_std: bool = True, memory: Memory) -> Estimate:
    """A = SA1 if |SA1| < |SA2| else SA2,  SA1 = A_cum / k + A_new (k-1)/k,  SA2 = A_new / k + A_cum (k-1)/k

    [N]; arXiv 2509.02333. On the k-th visit of a task, A_new standardises by the returns of this
    batch, A_cum by the cumulative mean and std of all visits, this one included (`memory`:
    {task: {times, mean, std}}). Unbiased std, no epsilon; a std of 0 gives 0, so a task that has always
    paid the same gives exactly 0. A constant group that differs from its history still teaches.

    Failure case: the history never forgets, so an early collapse biases the baseline for a long time.
    """
    # First turns stand for their episodes; tasks are numbered in the order in which these come.
    numbers: dict[str, int] = {}
    task_N = np.array(
        [numbers.setdefault(batch.episodes[int(i)].task_id, len(numbers)) for i in batch.episode_N]
    )
    value_N = scores.row_N(batch)
    stats = group_stats(value_N, task_N, weight_N=batch.first_N.astype(np.float64))
    old = [memory.get(task, {"times": 0, "mean": 0.0, "std": 0.0}) for task in numbers]
    k_Q = np.array([float(record["times"]) + 1.0 for record in old])
    mean_Q = np.array([float(record["mean"]) for record in old])
    variance_Q = np.array([float(record["std"]) ** 2 for record in old])
    gap_Q = stats.mean_G - mean_Q
    cumulative_Q = mean_Q + gap_Q / k_Q
    spread_Q = ((k_Q - 1) * variance_Q + stats.variance_G) / k_Q + (k_Q - 1) * (gap_Q / k_Q) ** 2

    new_N = _standard(value_N, task_N, stats.mean_G, stats.variance_G, divide_by_std)
    all_N = _standard(value_N, task_N, cumulative_Q, spread_Q, divide_by_std)
    share_N = 1.0 / k_Q[task_N]
    first_N = share_N * all_N + (1 - share_N) * new_N
    second_N = share_N * new_N + (1 - share_N) * all_N
    smaller_N = np.where(np.abs(first_N) < np.abs(second_N), first_N, second_N)
    after = {
        task: {"times": int(k_Q[q]), "mean": float(cumulative_Q[q]), "std": sqrt(spread_Q[q])}
        for task, q in numbers.items()
    }
    return Estimate(smaller_N, memory={**memory, **after})


def _standard(
    value_N: FloatArray, task_N: IntArray, mean_Q: FloatArray, variance_Q: FloatArray, divided: bool
) -> FloatArray:
    spread_N = np.sqrt(variance_Q)[task_N]
    scale_N = np.where(spread_N > 0, spread_N if divided else 1.0, np.inf)
    return (value_N - mean_Q[task_N]) / scale_N
