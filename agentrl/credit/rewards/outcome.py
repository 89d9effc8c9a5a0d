"""The return of an episode, paid at its last turn."""

from __future__ import annotations

from agentrl.credit.batch import Batch
from agentrl.credit.stages import Scores

__all__ = ["outcome"]


def outcome(batch: Batch) -> Scores:
    """R_i [E], as the reward of the last turn alone: the other turns have none, which is not a 0.

    For methods that compare turn rewards of several kinds (IGPO, arXiv 2510.14967). Failure case:
    rewards that the environment paid on the way are moved to the end; use `environment` to keep them there.
    """
    return Scores.of_episodes(batch, batch.return_E, member_N=batch.last_N)
