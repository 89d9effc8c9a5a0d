"""GPG: the plain policy gradient, no ratio and no clip."""

from __future__ import annotations

from dataclasses import dataclass

from agentrl.loss.base import LossInputs, TokenLosses

__all__ = ["GPG"]


@dataclass(frozen=True, slots=True)
class GPG:
    """Maximise A·log π of the sampled tokens (2504.02546; REINFORCE). No options.

    π_old does not enter, so the gradient is right on policy alone: with several epochs or minibatches
    nothing holds the policy near the one that sampled. Same values as verl's `compute_policy_loss_gpg`.
    """

    def __call__(self, inputs: LossInputs) -> TokenLosses:
        """Return −A·log π for each token."""
        return TokenLosses(-inputs.advantages_BT * inputs.log_prob_BT, {})
