"""A reward for keeping to the format."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import format_ok_E
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["format_reward"]


@traits(needs=("format_ok",))
def format_reward(batch: Batch, *, kept: float = 0.1, broken: float = 0.0) -> Scores:
    """R_i = kept if the episode kept to the format, else broken   [E]

    The format reward of Search-R1, arXiv 2503.09516, and many others. Failure case: once
    everybody keeps to it, it says nothing; before, a small model learns it instead of the task.
    """
    return Scores.of_episodes(batch, np.where(format_ok_E(batch), kept, broken).astype(np.float64))
