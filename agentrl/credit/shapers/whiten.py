"""Give the advantages of the batch mean 0 and variance 1."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.norm import group_stats
from agentrl.credit.options import NonNegative
from agentrl.credit.stages import Scores, Shaped

__all__ = ["whiten"]


def whiten(shaped: Shaped, scores: Scores, batch: Batch, *, epsilon: NonNegative = 1e-8) -> Shaped:
    """A' = (A - mean) / sqrt(var + epsilon) over all credited trainable tokens of the batch   [N]

    A turn weighs its trainable tokens, each with its own advantage where a method tells them apart; var is
    unbiased. Each term is divided and a term "whiten" holds -mean / sqrt(var + epsilon). Source:
    REINFORCE++, arXiv 2501.03262 (verl `masked_whiten`). A constant batch gives exactly 0. Failure case: it
    couples unrelated tasks, so one task with large returns shrinks the signal of all others.
    """
    total_N = shaped.total_N()
    weight_N = np.where(shaped.credited_N, batch.tokens_N, 0).astype(np.float64)
    if shaped.token_T is None:
        stats = group_stats(total_N, np.zeros(batch.size_N, dtype=np.int64), weight_N=weight_N)
    else:
        value_T = np.repeat(total_N, batch.tokens_N) + shaped.token_T
        credited_T = np.repeat(shaped.credited_N, batch.tokens_N)
        stats = group_stats(value_T, np.zeros(len(value_T), dtype=np.int64), member_N=credited_T)
    if not len(stats.constant_G):
        return shaped
    scale = 0.0 if stats.constant_G[0] else 1.0 / float(np.sqrt(stats.variance_G[0] + epsilon))
    terms = {name: term_N * scale for name, term_N in shaped.terms.items()}
    offset_N = np.full(batch.size_N, -float(stats.mean_G[0]) * scale)
    token_T = None if shaped.token_T is None else shaped.token_T * scale
    return replace(shaped, terms={**terms, "whiten": offset_N}, token_T=token_T)
