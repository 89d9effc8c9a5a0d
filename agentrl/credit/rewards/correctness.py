"""The verdict on the answer."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["correctness"]


@traits(needs=("correct",))
def correctness(batch: Batch, *, right: float = 1.0, wrong: float = 0.0) -> Scores:
    """R_i = right if episode i is correct, else wrong   [E]

    The outcome reward of nearly every paper. Failure case: a judge that says "wrong" when it could not
    read the answer pays the same for a bad format as for a bad answer; add `format_reward` then.
    """
    return Scores.of_episodes(batch, np.where(correct_E(batch), right, wrong).astype(np.float64))
