"""RiskPO: learn from the lower tail of what bundles of tasks pay."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.facts import fact
from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.segments import group_sums
from agentrl.credit.stages import Estimate, Memory, Scores

__all__ = ["riskpo"]


def riskpo(
    scores: Scores,
    batch: Batch,
    *,
    alpha: Annotated[float, Field(gt=0, lt=1)] = 0.2,
    beta: Annotated[float, Field(gt=0, le=1)] = 0.8,
    omega: NonNegative = 0.5,
    eta: Fraction = 0.1,
    memory: Memory,
) -> Estimate:
    """A_i = (1 + omega)(min(R_B, q_alpha) - q_alpha) + clip(R_B, q_alpha, q_beta) - q_beta   [N]

    RiskPO, arXiv 2510.00911, mixed value at risk. R_B is the sum of returns of the episodes that share
    the record's `bundle` (one of each of several tasks); an episode without one is a bundle of its own.
    The quantiles are tracked, q_s <- q_s + eta (s - mean 1[R_B < q_s]) after use (`memory` {low, high}),
    and start as those of the first batch. Derived from the objective; no released numbers were at hand.
    All A <= 0; bundles above q_beta get exactly 0.

    Failure case: with every A at most 0 probability flows to what was not sampled; mind the entropy.
    """
    numbers: dict[str, int] = {}
    names = [str(fact(e, "bundle") or f"episode {e.episode_id}") for e in batch.episodes]
    bundle_E = np.array([numbers.setdefault(name, len(numbers)) for name in names], dtype=np.int64)
    sum_B = group_sums(bundle_E, scores.episode_E, len(numbers))
    low = float(memory.get("low", np.quantile(sum_B, alpha)))
    high = max(low, float(memory.get("high", np.quantile(sum_B, beta))))
    advantage_B = (1.0 + omega) * (np.minimum(sum_B, low) - low) + np.clip(sum_B, low, high) - high
    after = {
        "low": low + eta * (alpha - float(np.mean(sum_B < low))),
        "high": high + eta * (beta - float(np.mean(sum_B < high))),
    }
    return Estimate(advantage_B[bundle_E][batch.episode_N], memory=after, metrics={"low": low, "high": high})
