"""Let a channel's loss cover the turns that it says something about, and no others."""

from __future__ import annotations

from dataclasses import replace

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Scores, Shaped

__all__ = ["nonzero_only"]


def nonzero_only(shaped: Shaped, scores: Scores, batch: Batch) -> Shaped:
    """credited_{i,t} = 1[A_{i,t} != 0], or all turns where no advantage differs from 0   [N]

    The channel's loss is then a mean over those turns, so its size does not shrink when few episodes
    qualify. HDPO, arXiv 2604.08545 (Metis, `hdpo_actor.py`). Failure case: a single qualifying pair gets
    the weight of a whole batch.
    """
    moved_N = shaped.total_N() != 0
    if not (moved_N & shaped.credited_N).any():
        return shaped
    return replace(shaped, credited_N=shaped.credited_N & moved_N)
