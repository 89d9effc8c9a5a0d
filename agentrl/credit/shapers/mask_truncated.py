"""Compare with the episodes that a limit cut off, but do not learn from them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import fact
from agentrl.credit.stages import Scores, Shaped

__all__ = ["mask_truncated"]


def mask_truncated(shaped: Shaped, scores: Scores, batch: Batch) -> Shaped:
    """credited_{i,t} = 0 for an episode that is truncated, or marked `overlong` in its record   [N]

    They stay in the mean and std of their group. E-GRPO, arXiv 2510.24694; DAPO's overlong filtering,
    arXiv 2503.14476 Failure case: an agent that never ends its episodes is never corrected.
    """
    cut_E = np.array([e.truncated or fact(e, "overlong") is True for e in batch.episodes], dtype=np.bool_)
    credited_N = shaped.credited_N & ~cut_E[batch.episode_N]
    return replace(shaped, credited_N=credited_N, metrics={"share": float(cut_E.mean())})
