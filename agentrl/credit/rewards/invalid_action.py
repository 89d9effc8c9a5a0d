"""A price on actions that the environment could not read."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Scores

__all__ = ["invalid_action"]


def invalid_action(batch: Batch, *, penalty: NonNegative = 0.1) -> Scores:
    """Take `penalty` from the score of every turn whose action was invalid.

    local_{i,t} = -penalty * 1[action of turn t invalid]   [N]

    Local: it lowers that turn's row score and that turn's return, and is not propagated to earlier turns.
    Source: verl-agent (GiGPO, arXiv 2505.10978), `apply_invalid_action_penalty`. Failure case: an
    environment that calls a clumsy but useful action invalid teaches the agent not to explore.
    """
    invalid_N = ~batch.action_valid_N
    share = float(invalid_N.mean()) if batch.size_N else 0.0
    return Scores.of_local(batch, np.where(invalid_N, -penalty, 0.0), metrics={"share": share})
