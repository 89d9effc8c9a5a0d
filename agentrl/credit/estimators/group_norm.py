"""Compare an episode with the others that tried the same task."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import groupwise_norm
from agentrl.credit.options import NonNegative, Singleton, StatisticsOver
from agentrl.credit.stages import Estimate, Scores

__all__ = ["group_norm"]


def group_norm(
    scores: Scores,
    batch: Batch,
    *,
    centre: Literal["mean", "leave_one_out"] = "mean",
    scale: Literal["std", "none"] = "std",
    statistics_over: StatisticsOver = "per_episode",
    epsilon: NonNegative = 1e-6,
    ddof: Literal[0, 1] = 1,
    singleton: Singleton = "zero",
) -> Estimate:
    """A_{i,t} = (x_{i,t} - mean_g) / (std_g + epsilon), x_{i,t} = R_i + local_{i,t}   [N]

    GRPO, arXiv 2402.03300, Sec. 4.1.2. scale "none": Dr. GRPO, arXiv 2503.20783. Centre "leave_one_out":
    RLOO, arXiv 2402.14740, A = (x - mean) n / (n - 1). `statistics_over`: "per_episode" lets each episode
    count once, by its first turn's x; "per_turn_row" lets every turn count (verl-agent), so an episode of
    fifty turns counts fifty times and long, usually failing, episodes pull the mean down.

    A group whose counted values are equal gives exactly 0 when divided by its std, where released codes
    give noise of up to 0.7, or 1e5 at a turn with a local score. Failure case: with few or lopsided
    episodes the std is small and one lucky episode gets a huge advantage.
    """
    value_N = scores.row_N(batch)
    advantage_N = groupwise_norm(
        value_N,
        batch.group_N,
        weight_N=batch.first_N.astype(np.float64) if statistics_over == "per_episode" else None,
        member_N=scores.member_N,
        centre=centre,
        scale=scale,
        ddof=ddof,
        epsilon=epsilon,
        singleton=singleton,
    )
    return Estimate(advantage_N)
