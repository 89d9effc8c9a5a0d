"""Compare what followed a state with what followed it at other visits."""

from __future__ import annotations

from typing import Annotated, Literal

import numpy as np
from pydantic import Field

from agentrl.credit.batch import Batch
from agentrl.credit.norm import groupwise_norm
from agentrl.credit.options import Fraction, NonNegative
from agentrl.credit.segments import IntArray, discounted_returns
from agentrl.credit.stages import Estimate, Metrics, Scores
from agentrl.credit.states import state_labels
from agentrl.credit.traits import traits

__all__ = ["step_norm"]


@traits(needs=("state_key",), discounts=True)
def step_norm(
    scores: Scores,
    batch: Batch,
    *,
    gamma: Fraction = 0.95,
    scale: Literal["std", "none"] = "std",
    epsilon: NonNegative = 1e-6,
    similarity_threshold: Annotated[float, Field(gt=0, le=1)] | None = None,
) -> Estimate:
    """A_{i,t} = (D_{i,t} - mean_s) / (std_s + epsilon) over the turns of one task in state s   [N]

    D_{i,t} = r_{i,t} + gamma D_{i,t+1}, then local_{i,t} is added (to that turn alone). GiGPO,
    arXiv 2505.10978, Eq. 5 (returns) and 8 (use). States are equal keys, or texts whose difflib ratio is
    at least `similarity_threshold` (first-come clusters, order dependent). A state seen once, or always
    followed by the same return, gives exactly 0.

    Failure case: a loop. Visits of one episode to one state differ only by the discount, so the later
    visit looks better although nothing was gained; `single_episode_share` tells how common that is.
    """
    label_N = state_labels(batch, similarity_threshold)
    return_N = discounted_returns(scores.turn_N, batch.offsets_E1, gamma) + scores.local_N
    advantage_N = groupwise_norm(
        return_N, label_N, member_N=scores.member_N, scale=scale, epsilon=epsilon, singleton="zero"
    )
    return Estimate(advantage_N, metrics=_metrics(label_N, batch))


def _metrics(label_N: IntArray, batch: Batch) -> Metrics:
    size_S = np.bincount(label_N)
    # Rows are episode by episode, so the first and the last row of a state bound its episodes.
    first_S, last_S = np.zeros_like(size_S), np.zeros_like(size_S)
    first_S[label_N[::-1]] = batch.episode_N[::-1]
    last_S[label_N] = batch.episode_N
    repeated_S = size_S > 1
    alone_S = first_S[repeated_S] == last_S[repeated_S]
    return {
        "groups": float(len(size_S)),
        "hit_rate": float(size_S[repeated_S].sum() / len(label_N)),
        "single_episode_share": float(alone_S.mean()) if len(alone_S) else 0.0,
    }
