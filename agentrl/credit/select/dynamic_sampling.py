"""Leave out groups that cannot teach: all their episodes have the same return."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import group_stats
from agentrl.credit.stages import Selection

__all__ = ["dynamic_sampling"]


def dynamic_sampling(
    batch: Batch, *, singletons: Literal["drop", "keep"] = "drop", last_try: bool = False
) -> Selection:
    """Keep episode i if max R != min R in its group, [E]; equality is exact.

    Their advantage would be 0; leaving them out keeps them from diluting a mean over the batch.
    Source: DAPO, arXiv 2503.14476, Sec. 3.2. A group of one is constant; "keep" leaves it in for methods
    that need no group; `last_try` keeps everything, as after the last refill. Failure case: late in
    training nearly every group is solved and the batch shrinks to a few; refill it in the rollout rather
    than train on those alone.
    """
    stats = group_stats(batch.return_E, batch.group_E)
    useful_G = ~stats.constant_G
    if singletons == "keep":
        useful_G |= stats.count_G == 1
    useful_G |= last_try
    return Selection(useful_G[batch.group_E], {"dropped_groups": float(np.count_nonzero(~useful_G))})
