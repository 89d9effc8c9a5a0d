"""What the environment paid."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Scores

__all__ = ["environment"]


def environment(batch: Batch) -> Scores:
    """Return the turn rewards r_{i,t} [N] and the returns R_i [E].

    R_i is the recorded return where a record has one, which need not be the sum of its rewards: an
    outcome that a judge gave later belongs to the episode and to no turn.
    """
    return Scores(batch.reward_N, batch.return_E, np.zeros(batch.size_N))
