"""FAPO: a right answer by a wrong way is worth less."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, numbers_E
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["fapo"]


@traits(needs=("correct", "metadata.first_error_index"))
def fapo(batch: Batch, *, flaw_penalty: float = 1.0) -> Scores:
    """R_i = 1 if correct without a flaw, 1 - flaw_penalty if correct with one, -1 if wrong   [E]

    FAPO, arXiv 2510.22543 A process judge writes `first_error_index` into the record: the step of
    the first error, -1 where there is none. Failure case: a judge that sees flaws in unusual reasoning
    takes the reward from whatever is new.
    """
    flawed = numbers_E(batch, "first_error_index") >= 0
    correct = correct_E(batch)
    reward_E = np.where(correct, np.where(flawed, 1.0 - flaw_penalty, 1.0), -1.0)
    return Scores.of_episodes(batch, reward_E, metrics={"flawed_share": float((flawed & correct).mean())})
