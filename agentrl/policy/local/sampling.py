"""Draw tokens as a function of (logits, seed, position) alone.

Every row of logits is treated on its own: which other rows share the batch cannot change a token, a
log-prob or an entropy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

__all__ = ["Draw", "Drawn", "as_list", "draw", "uniform"]

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15


class Draw(NamedTuple):
    """How to choose from one row: `u` in [0, 1) decides, greedily when `temperature` is 0."""

    temperature: float
    top_p: float
    u: float


@dataclass(frozen=True, slots=True)
class Drawn:
    """One chosen token per row, with natural log-prob and entropy (nats) before temperature and top-p."""

    token_ids: list[int]
    logprobs: list[float]
    entropies: list[float]


def uniform(seed: int, position: int) -> float:
    """Return a number in [0, 1) with 40 random bits, a function of its arguments (SplitMix64, twice)."""
    return (_mix(_mix(seed & MASK) + position * GOLDEN) >> 24) * 2.0**-40


def draw(logits_RV: Tensor, draws: Sequence[Draw]) -> Drawn:
    """Choose one token for each of the first `len(draws)` rows of float32 logits."""
    logprobs_RV = torch.log_softmax(logits_RV, dim=-1)
    entropy_R = (logprobs_RV.exp() * logprobs_RV).sum(dim=-1).neg()
    chosen_R = torch.argmax(logits_RV, dim=-1)
    for nucleus in (False, True):
        rows = [r for r, d in enumerate(draws) if d.temperature > 0 and (d.top_p < 1) is nucleus]
        if rows:
            chosen_R[rows] = _from_cdf(logits_RV[rows], [draws[r] for r in rows], nucleus=nucleus)
    logprob_R = logprobs_RV.gather(1, chosen_R[:, None])[:, 0]
    count = len(draws)
    entropies = [max(0.0, entropy) for entropy in as_list(entropy_R[:count])]
    return Drawn(as_list(chosen_R[:count]), as_list(logprob_R[:count]), entropies)


def as_list(tensor_R: Any) -> list[Any]:
    """Return a tensor's numbers (`Tensor.tolist` itself has no type)."""
    return tensor_R.tolist()


def _from_cdf(logits_RV: Tensor, draws: Sequence[Draw], *, nucleus: bool) -> Tensor:
    columns = torch.tensor(draws, dtype=torch.float64, device=logits_RV.device)
    temperature_R1, top_p_R1, u_R1 = columns[:, 0:1], columns[:, 1:2], columns[:, 2:3]
    p_RV = torch.softmax(logits_RV.double() / temperature_R1, dim=-1)
    order_RV = None
    if nucleus:
        p_RV, order_RV = p_RV.sort(dim=-1, descending=True, stable=True)
        # A token stays while what comes before it has not yet reached top_p, so one always stays.
        p_RV = p_RV * (p_RV.cumsum(dim=-1) - p_RV < top_p_R1)
    cdf_RV = p_RV.cumsum(dim=-1)
    index_R1 = torch.searchsorted(cdf_RV, u_R1 * cdf_RV[:, -1:], right=True)
    index_R1 = index_R1.clamp_max(cdf_RV.shape[1] - 1)
    return (index_R1 if order_RV is None else order_RV.gather(1, index_R1))[:, 0]


def _mix(x: int) -> int:
    x = (x + GOLDEN) & MASK
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)
