"""APO: on easy tasks, thinking or tools where an instant answer would do earn less."""

from __future__ import annotations

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, fact, format_ok_E
from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.segments import BoolArray, FloatArray, group_sums
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["apo"]


@traits(needs=("correct", "format_ok", "metadata.mode", "metadata.forced"))
def apo(
    batch: Batch, *, tau: Fraction = 0.5, alpha: NonNegative = 2.0, instant_mode: str = "instant"
) -> Scores:
    """R_i = correct_i format_ok_i f_i,  f_i = 1 - p^alpha for another mode on an easy task, else 1   [E]

    A2FM, arXiv 2510.12838 A record's `mode` says how it answered and `forced` whether it had
    to. A task is easy if the success rate of its episodes forced into `instant_mode` is above tau,
    strictly; p is the success rate of all its forced episodes. A group without forced instant episodes
    is not easy. Failure case: with few forced episodes the label "easy" is a coin toss.
    """
    correct, group_E = correct_E(batch), batch.group_E
    instant = np.array([fact(e, "mode") == instant_mode for e in batch.episodes], dtype=np.bool_)
    forced = np.array([fact(e, "forced") is True for e in batch.episodes], dtype=np.bool_)
    easy_G = _success(correct, forced & instant, batch) > tau
    factor_E = 1.0 - _success(correct, forced, batch)[group_E] ** alpha
    factor_E = np.where(easy_G[group_E] & ~instant, factor_E, 1.0)
    return Scores.of_episodes(
        batch,
        np.where(correct & format_ok_E(batch), factor_E, 0.0),
        metrics={"easy_share": float(easy_G.mean())},
    )


def _success(correct_E: BoolArray, counted_E: BoolArray, batch: Batch) -> FloatArray:
    groups = int(batch.group_E.max()) + 1
    played_G = group_sums(batch.group_E, counted_E, groups)
    return group_sums(batch.group_E, correct_E & counted_E, groups) / np.maximum(played_G, 1.0)
