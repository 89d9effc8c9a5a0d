"""The score itself, compared with nothing."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Estimate, Scores

__all__ = ["score"]


def score(scores: Scores, batch: Batch) -> Estimate:
    """A_{i,t} = R_i + local_{i,t}   [N]; 0 where no reward speaks about a turn.

    REINFORCE without a baseline (Williams 1992). Failure case: with rewards of one sign every action is
    pushed the same way and only the differences between pushes teach; follow it with `whiten`.
    """
    value_N = scores.row_N(batch)
    return Estimate(value_N if scores.member_N is None else np.where(scores.member_N, value_N, 0.0))
