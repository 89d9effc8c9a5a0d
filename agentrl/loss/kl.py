"""Per-token estimates of KL(policy ‖ reference) from the log-probs of the sampled tokens.

With Δ = log π(x) − log π_ref(x) and x ~ π (John Schulman, "Approximating KL divergence", 2020):

    k1   Δ                    unbiased, high variance, can be negative
    abs  |Δ|
    k2   Δ² / 2               biased, its gradient is that of the true KL on policy
    k3   e^(−Δ) − 1 + Δ       unbiased, never negative; its gradient as a loss is not the KL's
"""

from __future__ import annotations

import torch
from torch import Tensor

from agentrl.errors import ConfigError

__all__ = ["KL_KINDS", "kl_penalty"]

KL_KINDS = ("k1", "abs", "k2", "k3")
MAX_LOG_RATIO = 20.0
MAX_K3 = 10.0


def kl_penalty(kind: str, log_prob: Tensor, ref_log_prob: Tensor) -> Tensor:
    """Return the estimate for each token, in nats, in the shape of `log_prob`.

    k3's log-ratio is clamped to ±20 and its value to ±10, as verl does (core_algos.py, kl_penalty).

    Raises:
        ConfigError: `kind` is none of `KL_KINDS`.
    """
    log_ratio = log_prob - ref_log_prob
    match kind:
        case "k1":
            return log_ratio
        case "abs":
            return log_ratio.abs()
        case "k2":
            return 0.5 * log_ratio.square()
        case "k3":
            reverse = (-log_ratio).clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
            return (torch.exp(reverse) - reverse - 1).clamp(-MAX_K3, MAX_K3)
        case _:
            raise ConfigError(
                "loss.kl_kind", f"there is no KL estimator {kind!r}; those that exist: {', '.join(KL_KINDS)}"
            )
