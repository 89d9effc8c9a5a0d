"""EPO's entropy corridor: hold the entropy near what it was in the steps before (2509.22576).

    L = L_policy − λ·(L_H − β·L_smooth),    L_smooth = mean of α·P

L_H is the mean token entropy, H̄ the reference from the history, and P depends on the variant:

    paper      P = max(0, κ_l·H̄ − H) + max(0, H − κ_r·H̄)     differentiable; H̄ one number
    released   P = 0 where κ_l·H̄ < H < κ_r·H̄, else 1          no gradient; H̄ by turn index

Paper: λ = 0.001, (κ_l, κ_r) = (0, 2), α = 0.1 (ALFWorld) or 0.05, β_k = `corridor_beta`, rows are turns and
are averaged with seq-mean-token-mean; at step 0 there is no history and L_smooth = 0. Release (WujiangXu/EPO,
dp_actor.py): (0.8, 1.2), β = 1, and the whole term weighted by `released_weight`; it starts late, which a
caller does by passing no reference. Its penalty moves the loss but no weight, so the paper's is the default.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from agentrl.errors import ConfigError
from agentrl.loss.aggregation import aggregate, keep, segments

__all__ = [
    "CorridorResult",
    "EntropyHistory",
    "corridor_beta",
    "entropy_corridor",
    "released_weight",
    "turn_entropies",
]

VARIANTS = ("paper", "released")
MASK_MODES = ("token", "seq")


@dataclass(frozen=True, slots=True)
class CorridorResult:
    """The corridor's terms.

    Attributes:
        loss: −λ·(entropy − β·smoothing), to be added to the policy loss.
        entropy: L_H.
        smoothing: L_smooth.
        penalty_BT: α·P of each token, 0 where masked.
        values_BT: what each token adds to the loss; `loss` is their aggregate, whatever the micro-batches.
        metrics: plain numbers.
    """

    loss: Tensor
    entropy: Tensor
    smoothing: Tensor
    penalty_BT: Tensor
    values_BT: Tensor
    metrics: Mapping[str, float]


def entropy_corridor(
    entropy: Tensor,
    mask: Tensor,
    reference: Tensor | float | None,
    *,
    kappa_low: float = 0.0,
    kappa_high: float = 2.0,
    alpha: float = 0.1,
    smooth_coefficient: float = 1.0,
    entropy_coefficient: float = 0.001,
    aggregation: str = "seq-mean-token-mean",
    padded_length: int | None = None,
    turns: Tensor | None = None,
    variant: str = "paper",
    mask_mode: str = "token",
) -> CorridorResult:
    """Evaluate the corridor on token entropies `[rows, tokens]` that carry a gradient.

    Args:
        mask: 1 where a token is trainable; everything else is ignored, whatever it holds.
        reference: H̄, a number, one per row `[rows]` or one per token; None where there is no history yet.
        smooth_coefficient: β; `entropy_coefficient` is λ.
        padded_length: width that the release's "seq" mode divides a row's sum by (the tensor's when absent),
            and the constant divisor of seq-mean-token-sum-norm.
        turns: as in `policy_loss`.
        mask_mode: of the release: compare each "token", or "seq", the row's mean over its padded width.

    Raises:
        ConfigError: an unknown variant, mode or aggregation, an empty corridor, or tensors that do not match.
    """
    if variant not in VARIANTS or mask_mode not in MASK_MODES:
        raise ConfigError(
            "loss.entropy_corridor",
            f"the corridor has variants {VARIANTS} and mask modes {MASK_MODES}, "
            f"got {variant!r} and {mask_mode!r}",
        )
    if not 0 <= kappa_low <= kappa_high:
        raise ConfigError(
            "loss.entropy_corridor", f"need 0 <= kappa_low <= kappa_high, got {kappa_low} and {kappa_high}"
        )
    if entropy.dim() != 2 or entropy.shape != mask.shape:
        raise ConfigError(
            "loss.shape",
            f"the corridor takes equal [rows, tokens] tensors, got entropy {tuple(entropy.shape)} "
            f"and mask {tuple(mask.shape)}",
        )
    entropy_BT = keep(entropy, mask)
    if reference is None:
        distance_BT = torch.zeros_like(entropy_BT)
    else:
        reference_BT = _over_tokens(reference, entropy_BT)
        if variant == "paper":
            distance_BT = _distance(entropy_BT, kappa_low * reference_BT, kappa_high * reference_BT)
        else:
            compared_BT = entropy_BT.detach()
            if mask_mode == "seq":
                width = compared_BT.shape[-1] if padded_length is None else padded_length
                compared_BT = compared_BT.sum(dim=-1, keepdim=True) / max(width, 1)
            inside_BT = (compared_BT > kappa_low * reference_BT) & (compared_BT < kappa_high * reference_BT)
            distance_BT = (~inside_BT).to(entropy_BT.dtype).expand_as(entropy_BT)
    penalty_BT = keep(alpha * distance_BT, mask)
    mean_entropy = aggregate(entropy_BT, mask, aggregation, padded_length, turns)
    smoothing = aggregate(penalty_BT, mask, aggregation, padded_length, turns)
    outside = aggregate((penalty_BT.detach() > 0).to(entropy_BT.dtype), mask, "token-mean")
    return CorridorResult(
        -entropy_coefficient * (mean_entropy - smooth_coefficient * smoothing),
        mean_entropy,
        smoothing,
        penalty_BT,
        -entropy_coefficient * (entropy_BT - smooth_coefficient * penalty_BT),
        {"actor/entropy_smoothing": float(smoothing.detach()), "actor/entropy_outside": float(outside)},
    )


@dataclass(frozen=True, slots=True)
class EntropyHistory:
    """Mean entropies of the steps so far, each by turn index; plain numbers, for the checkpoint."""

    steps: tuple[tuple[float, ...], ...] = ()

    def after(self, by_turn: Sequence[float]) -> EntropyHistory:
        """Return the history with one more step; a step without turns leaves no trace."""
        return EntropyHistory((*self.steps, tuple(by_turn))) if by_turn else self

    def mean(self, window: int | None = None) -> float | None:
        """Return the paper's H̄ over the last `window` steps (all when absent); None without history.

        A step counts as the mean over its turn indices, every step alike.
        """
        steps = self.steps if window is None else self.steps[max(0, len(self.steps) - window) :]
        means = [math.fsum(step) / len(step) for step in steps]
        return math.fsum(means) / len(means) if means else None

    def by_turn(self) -> tuple[float, ...]:
        """Return the release's H̄ by turn index: shorter steps are padded with zeros on the left, as there."""
        width = max((len(step) for step in self.steps), default=0)
        wide = [(0.0,) * (width - len(step)) + step for step in self.steps]
        return tuple(math.fsum(column) / len(wide) for column in zip(*wide, strict=True))

    def to_json(self) -> list[list[float]]:
        """Return what `from_json` reads."""
        return [list(step) for step in self.steps]

    @classmethod
    def from_json(cls, data: Sequence[Sequence[Any]]) -> EntropyHistory:
        """Read a history back, bit by bit the same."""
        return cls(tuple(tuple(float(value) for value in step) for step in data))


def turn_entropies(entropy: Tensor, mask: Tensor, turns: Tensor) -> tuple[float, ...]:
    """Return the mean entropy of turns 0, 1, …; an index without a trainable token counts as 0.

    A turn of one row is the mean over its tokens; an index is the mean over its turns. `turns` holds each
    token's turn index, `[rows, tokens]` or `[rows, 1]`.
    """
    valid_BT = mask > 0
    turns_BT = turns.expand_as(valid_BT)
    rows_BT = torch.arange(len(mask), device=mask.device).unsqueeze(-1).expand_as(valid_BT)
    pairs_N2 = torch.stack([turns_BT[valid_BT].to(rows_BT), rows_BT[valid_BT]], dim=-1)
    if not len(pairs_N2):
        return ()
    found_K2, turn_N, tokens_K = segments(pairs_N2)
    values_N = entropy.detach()[valid_BT].double()
    mean_K = values_N.new_zeros(len(found_K2)).index_add(0, turn_N, values_N) / tokens_K
    counts_I = torch.bincount(found_K2[:, 0])
    means_I = mean_K.new_zeros(len(counts_I)).index_add(0, found_K2[:, 0], mean_K) / counts_I.clamp(min=1)
    return tuple(float(value) for value in means_I)


def corridor_beta(step: int, total_steps: int, gamma: float = 3.0) -> float:
    """Return the paper's β_k = 1 + exp(−γ·k / ⌊K/2⌋), from 2 at step 0 towards 1."""
    return 1 + math.exp(-gamma * step / max(total_steps // 2, 1))


def released_weight(epoch: int, max_epochs: int = 150) -> float:
    """Return the release's weight of the whole term.

    1 − 0.2·(1 − e^(−2p)) over the first half of the epochs, 0.8·e^(−3p) over the second, p the progress
    through that half; 1 where there are no epochs to speak of.
    """
    if max_epochs < 1:
        return 1.0
    epoch, half = min(epoch, max_epochs), max_epochs // 2
    if epoch <= half:
        return 1 - 0.2 * (1 - math.exp(-2 * epoch / max(half, 1)))
    return 0.8 * math.exp(-3 * (epoch - half) / (max_epochs - half))


def _distance(entropy_BT: Tensor, low_BT: Tensor, high_BT: Tensor) -> Tensor:
    return (low_BT - entropy_BT).clamp(min=0) + (entropy_BT - high_BT).clamp(min=0)


def _over_tokens(reference: Tensor | float, entropy_BT: Tensor) -> Tensor:
    given = torch.as_tensor(reference).detach().to(entropy_BT)
    if given.dim() == 1:
        given = given.unsqueeze(-1)
    if given.dim() > 2 or any(n not in (1, m) for n, m in zip(given.shape, entropy_BT.shape, strict=False)):
        raise ConfigError(
            "loss.shape",
            f"a reference of shape {tuple(given.shape)} does not fit entropies {tuple(entropy_BT.shape)}",
        )
    return given.expand_as(entropy_BT)
