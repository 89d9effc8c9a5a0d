"""D3S: of each group, learn from the episodes whose advantages differ most."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import ceil

import numpy as np

from agentrl.credit.batch import Batch
from agentrl.credit.options import Fraction
from agentrl.credit.segments import BoolArray
from agentrl.credit.stages import Scores, Shaped

__all__ = ["d3s"]


def d3s(shaped: Shaped, scores: Scores, batch: Batch, *, share: Fraction = 0.5) -> Shaped:
    """Credit, of n episodes of a group, the m = max(2, ceil(share n)) whose A have the largest variance   [N]

    D3S's sample level: such a subset is always the k smallest and the m - k largest for some k. An
    episode's A is the mean over its turns; equal ones are taken by id, so that the order of the batch does
    not matter. Use `token_mask` by "advantage_entropy" for its token level. Failure case: the middle of a
    group is never learnt from, although a careful half-success may be what generalises.
    """
    counts_E = np.maximum(np.diff(batch.offsets_E1), 1)
    total_E = np.bincount(batch.episode_N, weights=shaped.total_N(), minlength=len(batch)) / counts_E
    keep_E = np.zeros(len(batch), dtype=np.bool_)
    by_group: dict[int, list[int]] = {}
    for episode, group in enumerate(batch.group_E.tolist()):
        by_group.setdefault(group, []).append(episode)
    for members in by_group.values():
        ordered = sorted(members, key=lambda i: (total_E[i], batch.episodes[i].episode_id))
        keep_E[
            _spread_out(ordered, [float(total_E[i]) for i in ordered], max(2, ceil(share * len(members))))
        ] = True
    credited_N = shaped.credited_N & _on_turns(keep_E, batch)
    return replace(shaped, credited_N=credited_N, metrics={"kept_share": float(keep_E.mean())})


def _spread_out(ordered: list[int], values: Sequence[float], size: int) -> list[int]:
    if size >= len(ordered):
        return ordered
    splits = range(size + 1)

    def chosen(low: int) -> list[int]:
        return [*range(low), *range(len(ordered) - size + low, len(ordered))]

    best = max(splits, key=lambda low: (float(np.var([values[i] for i in chosen(low)])), -low))
    return [ordered[i] for i in chosen(best)]


def _on_turns(keep_E: BoolArray, batch: Batch) -> BoolArray:
    return keep_E[batch.episode_N]
