"""Multiply the advantage of single tokens by a factor, and keep the books balanced."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.facts import over_tokens
from agentrl.credit.segments import FloatArray
from agentrl.credit.stages import Shaped

__all__ = ["advantage_T", "reweighed"]


def advantage_T(shaped: Shaped, batch: Batch) -> FloatArray:
    """Return the advantage of every trainable token, [T]."""
    total_T = np.repeat(shaped.total_N(), batch.tokens_N)
    return total_T if shaped.token_T is None else total_T + shaped.token_T


def reweighed(shaped: Shaped, batch: Batch, name: str, factor_T: FloatArray) -> Shaped:
    """Return the advantage factor_T A_T; term `name` holds what that changes in the mean over each turn."""
    total_N = shaped.total_N()
    mean_N, token_T = over_tokens(batch, advantage_T(shaped, batch) * factor_T)
    change_N = np.where(batch.tokens_N > 0, mean_N - total_N, 0.0)
    return replace(shaped, terms={**shaped.terms, name: change_N}, token_T=token_T)
