"""A price on length near the limit."""

from __future__ import annotations

from typing import Literal

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import length_E
from agentrl.credit.options import NonNegative, Positive
from agentrl.credit.stages import Scores

__all__ = ["overlong"]


def overlong(
    batch: Batch,
    *,
    max_length: Positive = 20480.0,
    buffer: Positive = 4096.0,
    factor: NonNegative = 1.0,
    measure: Literal["tokens", "tool_calls", "turns"] = "tokens",
) -> Scores:
    """R_i = min(0, -factor (len_i - (max_length - buffer)) / buffer)   [E]

    DAPO's soft overlong punishment, arXiv 2503.14476 (verl's form: no floor beyond max_length).
    Failure case: a task that needs the whole length is punished for being done well.
    """
    excess_E = length_E(batch, measure) - (max_length - buffer)
    penalty_E = np.minimum(0.0, -factor * excess_E / buffer)
    return Scores.of_episodes(batch, penalty_E, metrics={"share": float((penalty_E < 0).mean())})
