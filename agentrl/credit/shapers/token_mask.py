"""Learn from the tokens that decide something, and from no others."""

from __future__ import annotations

from math import ceil
from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import tokens_T
from agentrl.credit.options import Fraction
from agentrl.credit.reweigh import advantage_T, reweighed
from agentrl.credit.stages import Scores, Shaped
from agentrl.credit.traits import traits

__all__ = ["token_mask"]


@traits(needs=("entropies",))
def token_mask(
    shaped: Shaped,
    scores: Scores,
    batch: Batch,
    *,
    by: Literal["entropy", "advantage_entropy"] = "entropy",
    share: Fraction = 0.2,
) -> Shaped:
    """A'_j = A_j 1[H_j is among the `share` largest of all credited trainable tokens]   [T]

    "entropy": forking tokens, arXiv 2506.01939 "advantage_entropy" ranks by |A_j| H_j: D3S, its
    token level. Ties at the threshold are all kept. Masked tokens get advantage 0, not none: they still
    count in a mean over tokens. Failure case: a token that is wrong and certain is never corrected.
    """
    rank_T = tokens_T(batch, "entropies")
    if by == "advantage_entropy":
        rank_T = np.abs(advantage_T(shaped, batch)) * rank_T
    credited_T = np.repeat(shaped.credited_N, batch.tokens_N)
    kept = ceil(share * int(np.count_nonzero(credited_T)))
    threshold = np.sort(rank_T[credited_T])[-kept] if kept else np.inf
    return reweighed(shaped, batch, "token_mask", (rank_T >= threshold).astype(np.float64))
