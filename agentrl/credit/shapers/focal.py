"""Turn the advantage down where the policy was sure anyway."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import tokens_T
from agentrl.credit.options import NonNegative
from agentrl.credit.reweigh import reweighed
from agentrl.credit.stages import Scores, Shaped
from agentrl.credit.traits import traits

__all__ = ["focal"]


@traits(needs=("logprobs",))
def focal(shaped: Shaped, scores: Scores, batch: Batch, *, focal_gamma: NonNegative = 1.0) -> Shaped:
    """A'_j = (1 - pi_j)^focal_gamma A_j for each trainable token, pi = exp(logprobs)   [T]

    RL-PLUS's exploration factor, arXiv 2508.00222: rare tokens that paid off weigh more than those
    that were certain. Failure case: late in training nearly all tokens are certain and nothing is learnt.
    """
    rarity_T = 1.0 - np.exp(np.minimum(tokens_T(batch, "logprobs"), 0.0))
    return reweighed(shaped, batch, "focal", rarity_T**focal_gamma)
