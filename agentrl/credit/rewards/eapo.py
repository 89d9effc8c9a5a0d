"""EAPO: every round is a sample, paid less the longer the episode still took."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.options import Fraction
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["eapo"]


@traits(pays_discounted=True)
def eapo(batch: Batch, *, gamma: Fraction = 0.995) -> Scores:
    """r_{i,t} = gamma^(T_i - t) R_i, rounds t = 1..T_i   [N], arXiv 2511.07327 (IterResearch)

    A round's own score: it enters no return of earlier rounds, since the discount is in it already (an
    estimator that discounts again is refused). Failure case: a failure with R < 0 hurts less the longer
    it is drawn out.
    """
    rounds_N = np.arange(batch.size_N) - batch.offsets_E1[batch.episode_N]
    left_N = np.diff(batch.offsets_E1)[batch.episode_N] - 1 - rounds_N
    return Scores.of_local(batch, np.power(gamma, left_N) * batch.return_E[batch.episode_N])
