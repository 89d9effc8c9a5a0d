"""The optimiser: Muon for hidden matrices and AdamW for the rest, or AdamW for all, behind one `step`.

It owns the learning-rate schedule, gradient clipping and its whole state, so that a resumed run takes
bitwise the steps that the first would have taken.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from agentrl.errors import CheckpointError, ConfigError

__all__ = ["LearningRate", "Optimizer", "build_optimizer"]

FINAL_FRACTION = 0.05
MUON_MOMENTUM = 0.95


@dataclass(frozen=True, slots=True)
class LearningRate:
    """Linear warm-up over `warmup_steps`, then constant, or linear from 1 down to 5 %.

    `total_steps` is where a linear decay ends; a caller who counts by tokens or time instead passes
    `progress` in [0, 1] to `factor`.
    """

    schedule: Literal["constant", "linear"] = "constant"
    warmup_steps: int = 0
    total_steps: int = 0

    def __post_init__(self) -> None:
        """Refuse unknown schedules."""
        if self.schedule not in ("constant", "linear"):
            raise ConfigError(
                "optimizer.schedule", f"lr_schedule must be constant or linear, got {self.schedule!r}"
            )

    def factor(self, step: int, progress: float | None = None) -> float:
        """Return the multiplier of the peak rate for step 0, 1, …"""
        warm = min(1.0, (step + 1) / (self.warmup_steps + 1))
        if self.schedule == "constant":
            return warm
        if progress is None:
            progress = step / self.total_steps if self.total_steps else 0.0
        return warm * (1 - (1 - FINAL_FRACTION) * min(1.0, max(0.0, progress)))


class Optimizer:
    """Clip, set the rate, step; several torch optimisers that share one schedule."""

    def __init__(self, parts: Iterable[torch.optim.Optimizer], rate: LearningRate, grad_clip: float) -> None:
        self._parts = list(parts)
        self._rate = rate
        self._grad_clip = grad_clip
        self._peaks = [[float(group["lr"]) for group in part.param_groups] for part in self._parts]
        self.steps = 0

    @property
    def parameters(self) -> list[Tensor]:
        """Every parameter that is trained, in a fixed order."""
        return [p for part in self._parts for group in part.param_groups for p in group["params"]]

    @property
    def lr(self) -> float:
        """Rate of the first group at the last step."""
        return float(self._parts[0].param_groups[0]["lr"])

    def zero_grad(self) -> None:
        """Drop every gradient."""
        for part in self._parts:
            part.zero_grad(set_to_none=True)

    def step(self, progress: float | None = None) -> float:
        """Clip the gradient to `grad_clip`, update once, drop the gradient; return its norm before.

        A gradient that is not finite updates nothing: the returned norm says so. `progress` in [0, 1]
        places the step on a linear schedule by something other than the count of steps.
        """
        norm = float(nn.utils.clip_grad_norm_(self.parameters, self._grad_clip))
        if math.isfinite(norm):
            factor = self._rate.factor(self.steps, progress)
            for part, peaks in zip(self._parts, self._peaks, strict=True):
                for group, peak in zip(part.param_groups, peaks, strict=True):
                    group["lr"] = peak * factor
                part.step()
            self.steps += 1
        self.zero_grad()
        return norm

    def state_dict(self) -> dict[str, Any]:
        """Return everything that the next step depends on: tensors and plain JSON values."""
        return {"steps": self.steps, "parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` returned.

        Raises:
            CheckpointError: it belongs to another optimiser or another model.
        """
        parts: list[dict[str, Any]] = state["parts"]
        if len(parts) != len(self._parts):
            raise CheckpointError(
                "checkpoint.optimizer",
                f"the checkpoint's optimiser has {len(parts)} parts, this one {len(self._parts)}: "
                "resume with the optimizer that the run was started with",
            )
        try:
            for part, saved in zip(self._parts, parts, strict=True):
                part.load_state_dict(saved)
        except (KeyError, ValueError) as error:
            raise CheckpointError(
                "checkpoint.optimizer", f"the optimiser's state does not fit this model: {error}"
            ) from error
        self.steps = int(state["steps"])


def build_optimizer(
    model: nn.Module,
    kind: Literal["muon", "adamw"] = "muon",
    lr: float = 0.02,
    *,
    adamw_lr: float | None = None,
    weight_decay: float = 0.0,
    betas: tuple[float, float] = (0.9, 0.95),
    grad_clip: float = 1.0,
    rate: LearningRate | None = None,
) -> Optimizer:
    """Group a model's parameters and build their optimiser.

    Args:
        kind: "muon" orthogonalises the momentum of every hidden matrix (Jordan et al. 2024) and leaves
            embeddings, head and norms to AdamW; "adamw" takes all.
        lr: peak rate of Muon, or of AdamW where it takes all.
        adamw_lr: peak rate of AdamW beside Muon; 0.15 · lr when absent (3e-3 for 0.02).
        weight_decay: on matrices and embeddings; norms never decay.
        grad_clip: largest norm of the whole gradient.

    Raises:
        ConfigError: `kind` is neither.
    """
    hidden: list[Tensor] = []
    embeddings: list[Tensor] = []
    vectors: list[Tensor] = []
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        if parameter.ndim < 2:
            vectors.append(parameter)
        elif parameter.ndim > 2 or "embed_tokens" in name or "lm_head" in name:
            embeddings.append(parameter)
        else:
            hidden.append(parameter)
    rate = rate or LearningRate()
    if kind == "adamw":
        return Optimizer([_adamw(hidden + embeddings, vectors, lr, weight_decay, betas)], rate, grad_clip)
    if kind != "muon":
        raise ConfigError("optimizer.kind", f"optimizer must be muon or adamw, got {kind!r}")
    muon = torch.optim.Muon(hidden, lr=lr, weight_decay=weight_decay, momentum=MUON_MOMENTUM)
    rest = _adamw(embeddings, vectors, 0.15 * lr if adamw_lr is None else adamw_lr, weight_decay, betas)
    return Optimizer([muon, rest], rate, grad_clip)


def _adamw(
    matrices: list[Tensor], vectors: list[Tensor], lr: float, decay: float, betas: tuple[float, float]
) -> torch.optim.Optimizer:
    groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
    return torch.optim.AdamW([group for group in groups if group["params"]], lr=lr, betas=betas)
