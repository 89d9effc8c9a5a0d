"""BNPO: divide by how usual a success rate is, not by a spread."""

from __future__ import annotations

from math import exp, lgamma, log

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import group_stats
from agentrl.credit.segments import FloatArray
from agentrl.credit.stages import Estimate, Scores
from agentrl.errors import ConfigError

__all__ = ["bnpo"]


def bnpo(scores: Scores, batch: Batch) -> Estimate:
    """A_i = (R_i - p_g) / f(p_g; 1 + a/3, 1 + b/3)   [N], arXiv 2506.02864

    f is the density of the Beta distribution, p_g the mean of the group's returns (each 0..1), a and b
    the moments' fit of Beta(a, b) to the p_g of this batch. A constant group gives exactly 0. Where the
    fit does not exist (equal p_g, or only 0 and 1) f is that of Beta(3/2, 3/2), which makes it GRPO up to
    a factor. No released numbers were at hand to check the fit against. Failure case: a batch of few
    tasks fits a and b to noise.
    """
    value_E = scores.episode_E
    if (value_E < 0).any() or (value_E > 1).any():
        raise ConfigError(
            "credit.bnpo_range",
            "bnpo takes the mean return of a group for a success rate, but a return lies outside 0..1; "
            "use the reward `correctness`, or another estimator",
        )
    stats = group_stats(value_E, batch.group_E)
    alpha, beta = _fit(stats.mean_G)
    density_G = np.array([_density(p, alpha, beta) for p in stats.mean_G.tolist()])
    scale_G = np.where(stats.constant_G, 0.0, 1.0 / np.where(density_G > 0, density_G, 1.0))
    advantage_E = (value_E - stats.mean_G[batch.group_E]) * scale_G[batch.group_E]
    return Estimate(advantage_E[batch.episode_N], metrics={"alpha": alpha, "beta": beta})


def _fit(rate_G: FloatArray) -> tuple[float, float]:
    mean, variance = float(rate_G.mean()), float(rate_G.var())
    strength = mean * (1 - mean) / variance - 1.0 if variance > 1e-12 else 0.0
    if strength <= 0:
        return 1.5, 1.5
    return 1.0 + strength * mean / 3.0, 1.0 + strength * (1.0 - mean) / 3.0


def _density(p: float, alpha: float, beta: float) -> float:
    if not 0 < p < 1:
        return 0.0
    norm = lgamma(alpha + beta) - lgamma(alpha) - lgamma(beta)
    return exp(norm + (alpha - 1) * log(p) + (beta - 1) * log(1 - p))
