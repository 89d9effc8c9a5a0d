"""The loss library: log-probs and advantages in, one scalar with a gradient out. Pure torch.

Tensors are `[rows, tokens]` and a mask is 1 where a token is trainable. Nothing at a masked position
ever reaches a result: not padding, not observations, not a NaN. The one idea is that every mean is a
masked sum over an explicit denominator (`agentrl.loss.aggregation`), so that a batch can be cut into
micro-batches at will. A policy loss is one file in `agentrl.loss.policies`.
"""

from agentrl.loss.aggregation import AGGREGATIONS, aggregate, denominator, masked_total
from agentrl.loss.base import (
    LossInputs,
    LossResult,
    PolicyLoss,
    TokenLosses,
    build,
    masked_inputs,
    policy_loss,
)
from agentrl.loss.entropy import (
    CorridorResult,
    EntropyHistory,
    corridor_beta,
    entropy_corridor,
    released_weight,
    turn_entropies,
)
from agentrl.loss.kl import KL_KINDS, kl_penalty
from agentrl.loss.rollout import RolloutWeights, rollout_weights

__all__ = [
    "AGGREGATIONS",
    "KL_KINDS",
    "CorridorResult",
    "EntropyHistory",
    "LossInputs",
    "LossResult",
    "PolicyLoss",
    "RolloutWeights",
    "TokenLosses",
    "aggregate",
    "build",
    "corridor_beta",
    "denominator",
    "entropy_corridor",
    "kl_penalty",
    "masked_inputs",
    "masked_total",
    "policy_loss",
    "released_weight",
    "rollout_weights",
    "turn_entropies",
]
