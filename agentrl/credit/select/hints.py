"""Scaf-GRPO and GHPO: ask for a hint where a whole group failed."""

from __future__ import annotations

from typing import Annotated

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Memory, Selection
from agentrl.credit.traits import traits

__all__ = ["hints"]


@traits(needs=("correct",))
def hints(
    batch: Batch,
    *,
    tiers: Annotated[int, Field(ge=1)] = 3,
    patience: Annotated[int, Field(ge=1)] = 1,
    memory: Memory,
) -> Selection:
    """tier_q <- min(tiers, tier_q + 1) after `patience` visits without one success; 0 after a success

    Keeps every episode; `memory` {task: {failed_visits, tier, share}} is the request for the next visit.
    Scaf-GRPO, arXiv 2510.19807: tiers are knowledge, planning, solution. GHPO, arXiv 2507.10628:
    share = tier / tiers is the part of the reference solution to show. The ratio of such an episode is
    computed with the hint in the prompt. Failure case: hints that give the answer away are learnt as such.
    """
    solved: dict[str, bool] = {}
    for episode in batch.episodes:
        solved[episode.task_id] = solved.get(episode.task_id, False) or episode.correct is True
    after = dict(memory)
    for task, once in solved.items():
        state = memory.get(task, {"failed_visits": 0, "tier": 0})
        failed = 0 if once else int(state["failed_visits"]) + 1
        tier = 0 if once else min(tiers, int(state["tier"]) + (failed % patience == 0))
        after[task] = {"failed_visits": failed, "tier": tier, "share": tier / tiers}
    metrics = {"unsolved_share": 1.0 - sum(solved.values()) / len(solved)}
    return Selection(np.ones(len(batch), dtype=np.bool_), metrics, after)
