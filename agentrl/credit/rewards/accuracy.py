"""HDPO's accuracy: the answer, and a little for the format."""

from __future__ import annotations

from agentrl.credit.batch import Batch
from agentrl.credit.facts import correct_E, format_ok_E
from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Scores
from agentrl.credit.traits import traits

__all__ = ["accuracy"]


@traits(needs=("correct", "format_ok"))
def accuracy(batch: Batch, *, accuracy_weight: NonNegative = 0.9, format_weight: NonNegative = 0.1) -> Scores:
    """R_i = accuracy_weight correct_i + format_weight format_ok_i   [E]

    HDPO, arXiv 2604.08545 Failure case: a group in which nobody is correct still differs by
    format, and dividing by its small std makes the format as loud as an answer.
    """
    answer_E = accuracy_weight * correct_E(batch)
    return Scores.of_episodes(batch, answer_E + format_weight * format_ok_E(batch))
