"""E-GRPO: a wrong answer is worth something if the search went through the right entities."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, numbers_E
from agentrl.credit.options import Fraction
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["egrpo"]


@traits(needs=("correct", "metadata.matched_entities", "metadata.total_entities"))
def egrpo(batch: Batch, *, alpha: Fraction = 0.3) -> Scores:
    """R_i = 1 if correct; alpha g_i / max_group g if wrong; 0 on a format error   [E]

    E-GRPO, arXiv 2510.24694: g_i = matched_entities / total_entities of the record, the share of
    the question's gold entities that the episode mentions; 0 where the group's best is 0. A format error
    is `format_ok: false`. Failure case: the best of a group in which all are wrong gets alpha however
    little it matched.
    """
    total_E = numbers_E(batch, "total_entities")
    rate_E = numbers_E(batch, "matched_entities") / np.where(total_E > 0, total_E, 1.0)
    rate_E = np.where(total_E > 0, rate_E, 0.0)
    best_G = np.zeros(int(batch.group_E.max()) + 1)
    np.maximum.at(best_G, batch.group_E, rate_E)
    best_E = best_G[batch.group_E]
    share_E = np.where(best_E > 0, rate_E / np.where(best_E > 0, best_E, 1.0), 0.0)
    broken_E = np.array([episode.format_ok is False for episode in batch.episodes])
    reward_E = np.where(correct_E(batch), 1.0, alpha * share_E)
    return Scores.of_episodes(
        batch, np.where(broken_E, 0.0, reward_E), metrics={"match_rate": float(rate_E.mean())}
    )
