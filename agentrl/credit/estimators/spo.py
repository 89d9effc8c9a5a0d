"""SPO: one episode at a time against what the task is known to pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.facts import fact
from agentrl.credit.options import Fraction, NonNegative, Positive
from agentrl.credit.stages import Estimate, Memory, Scores
from agentrl.errors import ConfigError

__all__ = ["spo"]


def spo(
    scores: Scores,
    batch: Batch,
    *,
    d_half: Positive = 0.06,
    rho_min: Annotated[float, Field(ge=0, lt=1)] = 0.875,
    rho_max: Fraction = 0.96,
    prior_successes: NonNegative = 0.0,
    prior_trials: NonNegative = 0.0,
    visits: Literal["batch", "stream"] = "batch",
    memory: Memory,
) -> Estimate:
    """A_i = R_i - alpha / (alpha + beta); then alpha <- rho alpha + R, beta <- rho beta + 1 - R   [N]

    SPO, arXiv 2509.13232; returns lie in [0, 1]. rho = 2^(-D / d_half) within [rho_min, rho_max],
    D the mean |change of log-prob| of the task's last response (`mean_abs_logprob_shift` of the record;
    without it rho_min). Memory {task: {alpha, beta}} starts at n (s + 0.5) / (trials + 1) of n =
    1 / (1 - rho_min) with s = prior_successes. "batch": a task's episodes of one batch are one visit, with
    their mean return. "stream": each is a visit, in the order given, against the state before it.

    Failure case: the tracker lags behind a policy that learns fast, and every success looks like luck.
    """
    tracked = {task: (float(state["alpha"]), float(state["beta"])) for task, state in memory.items()}
    size = 1.0 / (1.0 - rho_min)
    alpha = size * (prior_successes + 0.5) / (prior_trials + 1.0)
    advantage_E = np.zeros(len(batch))
    for members in _visits(batch, visits):
        task, returns = batch.episodes[members[0]].task_id, scores.episode_E[members]
        if (returns < 0).any() or (returns > 1).any():
            raise ConfigError(
                "credit.spo_range",
                f"spo tracks success rates, but task {task!r} has a return outside 0..1; "
                "use the reward `correctness`, or another estimator",
            )
        a, b = tracked.get(task, (alpha, size - alpha))
        advantage_E[members] = returns - a / (a + b)
        shifts = [fact(batch.episodes[i], "mean_abs_logprob_shift") for i in members]
        known = [float(shift) for shift in shifts if shift is not None]
        decay = 2.0 ** (-np.mean(known) / d_half) if known else rho_min
        rho = float(np.clip(decay, rho_min, rho_max))
        tracked[task] = (rho * a + float(returns.mean()), rho * b + 1.0 - float(returns.mean()))
    after = {task: {"alpha": a, "beta": b} for task, (a, b) in tracked.items()}
    return Estimate(advantage_E[batch.episode_N], memory=after)


def _visits(batch: Batch, visits: str) -> Sequence[list[int]]:
    if visits == "stream":
        return [[i] for i in range(len(batch))]
    by_task: dict[str, list[int]] = {}
    for i, episode in enumerate(batch.episodes):
        by_task.setdefault(episode.task_id, []).append(i)
    return list(by_task.values())
