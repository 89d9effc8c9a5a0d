"""One policy update: rows with advantages -> changed weights and metrics under verl's names.

    L = Σ_k w_k · L_policy(A_k) + c_kl · KL(π ‖ π_ref) − c_H · H(π)

Each credit channel k has its own advantages, mask, weight and denominator, so that a channel which
speaks of few turns is not diluted by the others; this file never asks which method made it. Every mean
has the denominator of its whole mini-batch, so the result does not depend on how the mini-batch is cut
into micro-batches.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3ForCausalLM

from agentrl.errors import ConfigError
from agentrl.loss import PolicyLoss, build, denominator, kl_penalty, masked_inputs, masked_total
from agentrl.train.optimizer import Optimizer
from agentrl.train.packing import Packed, autocast, collate, logprobs, pack
from agentrl.train.rows import Row

__all__ = ["UpdateSettings", "update"]


@dataclass(frozen=True, slots=True)
class UpdateSettings:
    """How to update.

    Attributes:
        loss: file name in `agentrl.loss.policies`; `loss_options` go to it.
        aggregation: how token losses become one number, for the policy, KL and entropy terms alike.
        padded_length: constant divisor of seq-mean-token-sum-norm; the longest row when absent.
        channel_weights: weight w_k of each credit channel; 1 where absent.
        kl_coef: weight of the KL to the reference model; 0 needs no reference.
        entropy_coef: weight of the entropy bonus.
        epochs: passes over the rows; `minibatches` optimiser steps in each.
        microbatch_tokens: tokens in one forward pass; changes memory and speed, not the result.
        old_logprobs: π_old of the ratio: the sampler's own, or recomputed by the trainer beforehand.
    """

    loss: str = "ppo"
    loss_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    aggregation: str = "token-mean"
    padded_length: int | None = None
    channel_weights: Mapping[str, float] = field(default_factory=dict[str, float])
    kl_kind: str = "k3"
    kl_coef: float = 0.0
    entropy_coef: float = 0.0
    epochs: int = 1
    minibatches: int = 1
    microbatch_tokens: int = 8192
    autocast: bool = True
    old_logprobs: Literal["sampler", "recompute"] = "sampler"
    seed: int = 0


def update(
    model: Qwen3ForCausalLM,
    optimizer: Optimizer,
    rows: Sequence[Row],
    settings: UpdateSettings,
    *,
    ref_model: Qwen3ForCausalLM | None = None,
    step: int = 0,
) -> dict[str, float]:
    """Take `epochs × minibatches` optimiser steps on the rows; the rest follows from the arguments.

    Rows without a trainable token are left out; when none is left, nothing is stepped.

    Args:
        ref_model: frozen weights of the KL term.
        step: of the run; with `settings.seed` it fixes which rows share a mini-batch.

    Raises:
        ConfigError: an unknown loss, option, aggregation or KL kind, or a KL weight without a reference.
    """
    policy = build(settings.loss, settings.loss_options)
    if settings.kl_coef and ref_model is None:
        raise ConfigError(
            "train.no_reference", f"kl_coef is {settings.kl_coef} and no reference model was given"
        )
    samples = [_Sample.of(row) for row in rows]
    samples = [sample for sample in samples if len(sample.sampler_N)]
    sums = _Sums()
    run = _Run(model, optimizer, policy, settings, _longest(samples), sums)
    if settings.old_logprobs == "recompute":
        for sample, values_N in zip(samples, run.score(model, samples), strict=True):
            sample.old_N = values_N
            sums.probability_gap(values_N, sample.sampler_N)
    if ref_model is not None and settings.kl_coef:
        for sample, values_N in zip(samples, run.score(ref_model, samples), strict=True):
            sample.reference_N = values_N
    generator = torch.Generator().manual_seed(settings.seed * 1_000_003 + step)
    model.train()
    compare = settings.old_logprobs == "sampler"
    for _ in range(settings.epochs):
        units = run.units(samples)
        order = torch.randperm(len(units), generator=generator)
        for part in order.tensor_split(max(1, min(settings.minibatches, len(units)))):
            minibatch = [samples[i] for unit in sorted(cast("list[int]", part.tolist())) for i in units[unit]]
            if minibatch:
                run.minibatch(minibatch, compare=compare)
                compare = False
    model.eval()
    trained = sum(len(sample.sampler_N) for sample in samples)
    return {
        **sums.means(),
        "actor/lr": optimizer.lr,
        "actor/kl_coef": settings.kl_coef,
        "update/rows": float(len(samples)),
        "update/trained_tokens": float(trained),
        "update/tokens": float(sum(len(sample.ids_T) for sample in samples)),
    }


@dataclass(slots=True, eq=False)
class _Sample:
    """A row reduced to its trainable tokens (`_N`)."""

    ids_T: Tensor
    chosen_T: Tensor
    turns_N: Tensor
    group_id: str
    sampler_N: Tensor
    old_N: Tensor
    reference_N: Tensor
    channels: Mapping[str, tuple[Tensor, Tensor]]

    @classmethod
    def of(cls, row: Row) -> _Sample:
        chosen_T = row.trainable_T
        sampler_N = row.logprobs_T[chosen_T]
        channels = {
            name: (channel.advantages_T[chosen_T].float(), channel.credited_T[chosen_T].float())
            for name, channel in row.channels.items()
        }
        turns_N, reference_N = row.turns_T[chosen_T], torch.zeros_like(sampler_N)
        return cls(row.ids_T, chosen_T, turns_N, row.group_id, sampler_N, sampler_N, reference_N, channels)

    def channel(self, name: str) -> tuple[Tensor, Tensor]:
        """Return the advantages and the mask of a channel; empty where it does not speak of this row."""
        nothing_N = torch.zeros_like(self.sampler_N)
        return self.channels.get(name, (nothing_N, nothing_N))


class _Sums:
    """Weighted sums of metrics, kept on the device until they are read."""

    def __init__(self) -> None:
        self._totals: dict[str, Tensor] = {}
        self._weights: dict[str, Tensor] = {}
        self._largest: dict[str, Tensor] = {}

    def add(self, name: str, total: Tensor | float, weight: Tensor | float = 1.0) -> None:
        total, weight = torch.as_tensor(total).detach().double(), torch.as_tensor(weight).double()
        self._totals[name] = self._totals[name] + total if name in self._totals else total
        self._weights[name] = self._weights[name] + weight if name in self._weights else weight

    def probability_gap(self, logprobs_N: Tensor, sampler_N: Tensor) -> None:
        """Note |p_trainer − p_sampler|, which is 0 up to rounding where both have the same weights."""
        gap_N = (logprobs_N.detach().exp() - sampler_N.exp()).abs()
        if len(gap_N):
            self.add("training/rollout_probs_diff_mean", gap_N.sum(), float(len(gap_N)))
            name = "training/rollout_probs_diff_max"
            self._largest[name] = torch.maximum(self._largest.get(name, gap_N.max()), gap_N.max())

    def means(self) -> dict[str, float]:
        means = {
            name: float(total) / max(float(self._weights[name]), 1.0) for name, total in self._totals.items()
        }
        return means | {name: float(value) for name, value in self._largest.items()}


@dataclass(frozen=True, slots=True)
class _Run:
    """What stays the same over one update."""

    model: Qwen3ForCausalLM
    optimizer: Optimizer
    policy: PolicyLoss
    settings: UpdateSettings
    padded_length: int
    sums: _Sums

    def score(self, model: Qwen3ForCausalLM, samples: Sequence[_Sample]) -> list[Tensor]:
        """Return log π of every sample's tokens under a model, without a gradient, on the CPU."""
        scored: dict[int, Tensor] = {}
        for members in self._microbatches(samples):
            batch = self._collate([samples[i] for i in members])
            with torch.no_grad(), autocast(model.device, self.settings.autocast):
                values_N = logprobs(model, batch).logprobs_N.cpu()
            counts = [len(samples[i].sampler_N) for i in members]
            scored.update(zip(members, torch.split(values_N, counts), strict=True))
        return [scored[i] for i in range(len(samples))]

    def minibatch(self, samples: Sequence[_Sample], *, compare: bool) -> None:
        """Accumulate the gradient over micro-batches and take one step.

        `compare` notes how far the log-probs are from the sampler's: true of weights not yet changed.
        """
        names = sorted({name for sample in samples for name in sample.channels})
        divisors = {name: self._divisor([sample.channel(name)[1] for sample in samples]) for name in names}
        divisor = self._divisor([torch.ones_like(sample.sampler_N) for sample in samples])
        policy_loss = torch.zeros((), device=self.model.device)
        for members in self._microbatches(samples):
            loss, pg_loss = self._microbatch([samples[i] for i in members], divisors, divisor, compare)
            loss.backward()
            policy_loss += pg_loss.detach()
        before = self.optimizer.steps
        norm = self.optimizer.step()
        self.sums.add("actor/pg_loss", policy_loss)
        self.sums.add("actor/grad_norm", norm)
        self.sums.add("actor/skipped_steps", float(self.optimizer.steps == before))

    def _microbatch(
        self, samples: Sequence[_Sample], divisors: Mapping[str, float], divisor: float, compare: bool
    ) -> tuple[Tensor, Tensor]:
        settings, device = self.settings, self.model.device
        batch = self._collate(samples)
        with autocast(device, settings.autocast):
            scored = logprobs(self.model, batch, entropy="gradient" if settings.entropy_coef else "value")
        entropies_N = scored.entropies_N
        assert entropies_N is not None
        sampler_N = torch.cat([sample.sampler_N for sample in samples]).to(device)
        if compare:
            self.sums.probability_gap(scored.logprobs_N, sampler_N)
        new_BL = batch.by_sequence(scored.logprobs_N)
        old_BL = batch.by_sequence(torch.cat([sample.old_N for sample in samples]).to(device))
        mask_BL = batch.by_sequence(torch.ones_like(sampler_N))
        turns_BL = batch.by_sequence(torch.cat([sample.turns_N for sample in samples]).to(device))
        group_ids = sorted({sample.group_id for sample in samples})
        groups_B = torch.tensor([group_ids.index(sample.group_id) for sample in samples], device=device)
        tokens = float(len(sampler_N))
        pg_loss = new_BL.new_zeros(())
        for name, channel_divisor in divisors.items():
            advantages_BL, credited_BL = (
                batch.by_sequence(torch.cat([sample.channel(name)[k] for sample in samples]).to(device))
                for k in (0, 1)
            )
            values = self.policy(masked_inputs(new_BL, old_BL, advantages_BL, credited_BL, groups_B))
            total = masked_total(values.values_BT, credited_BL, settings.aggregation, turns_BL)
            part = total / channel_divisor
            pg_loss = pg_loss + settings.channel_weights.get(name, 1.0) * part
            for metric, value_BL in values.metrics_BT.items():
                self.sums.add(metric, (value_BL * credited_BL).sum(), credited_BL.sum())
        loss = pg_loss
        self.sums.add("actor/entropy", entropies_N.sum(), tokens)
        if settings.entropy_coef:
            entropy_BL = batch.by_sequence(entropies_N)
            bonus = masked_total(entropy_BL, mask_BL, settings.aggregation, turns_BL) / divisor
            loss = loss - settings.entropy_coef * bonus
        if settings.kl_coef:
            reference_BL = batch.by_sequence(torch.cat([s.reference_N for s in samples]).to(device))
            kl_BL = kl_penalty(settings.kl_kind, new_BL, reference_BL)
            kl = masked_total(kl_BL, mask_BL, settings.aggregation, turns_BL) / divisor
            loss = loss + settings.kl_coef * kl
            self.sums.add("actor/kl_loss", (kl_BL * mask_BL).sum(), tokens)
        return loss, pg_loss

    def _divisor(self, masks: Sequence[Tensor]) -> float:
        mask_BL = pad_sequence(list(masks), batch_first=True)
        return max(denominator(mask_BL, self.settings.aggregation, self.padded_length), 1.0)

    def _microbatches(self, samples: Sequence[_Sample]) -> list[list[int]]:
        units = self.units(samples)
        lengths = [sum(len(samples[i].ids_T) for i in unit) for unit in units]
        packed = pack(lengths, self.settings.microbatch_tokens)
        return [[i for unit in members for i in units[unit]] for members in packed]

    def units(self, samples: Sequence[_Sample]) -> list[list[int]]:
        """Return what must not be cut apart: single rows, or groups where the loss compares their rows."""
        if not getattr(self.policy, "whole_groups", False):
            return [[i] for i in range(len(samples))]
        groups: dict[str, list[int]] = {}
        for i, sample in enumerate(samples):
            groups.setdefault(sample.group_id, []).append(i)
        return list(groups.values())

    def _collate(self, samples: Sequence[_Sample]) -> Packed:
        return collate(
            [sample.ids_T for sample in samples], [sample.chosen_T for sample in samples], self.model.device
        )


def _longest(samples: Sequence[_Sample]) -> int:
    return max((len(sample.ids_T) for sample in samples), default=1)
