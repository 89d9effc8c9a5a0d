"""Behaviour cloning from token sequences with a loss weight per token, and the copy warm-up before it.

A small model trained on demonstrations alone learns the format and stops there: it never finds out that
a name in a reply is copied from the context. `copy_warmup` trains on random sequences whose chunks repeat,
where nothing but copying helps; it is quick for a model that starts with copying heads
(`agentrl.train.induction`) and takes millions of tokens for one that does not.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice, pairwise
from typing import cast

import torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from agentrl.errors import AlignmentError
from agentrl.train.optimizer import LearningRate, Optimizer, build_optimizer
from agentrl.train.packing import autocast, collate, logprobs, pack

__all__ = [
    "CloneSettings",
    "CopySettings",
    "Demonstration",
    "Progress",
    "clone",
    "clone_optimizer",
    "copy_warmup",
]

ACTION_WEIGHT = 1.0


@dataclass(frozen=True, slots=True)
class Demonstration:
    """Token ids of one episode and a loss weight for each: 1 for the expert's actions, less for the rest."""

    ids: Sequence[int]
    weights: Sequence[float]


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a run stands: counts since its start, including what it was resumed from.

    `metrics` holds the last step's: `clone/action_nll` and `clone/observation_nll` (nats a token, the
    tokens of weight 1 and of smaller weight), or `copy/nll`; `perf/tokens_per_s`; `actor/lr`.
    """

    steps: int = 0
    examples: int = 0
    tokens: int = 0
    seconds: float = 0.0
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True, slots=True)
class CloneSettings:
    """How to clone. It stops at `token_budget`, `time_budget_s` or the end of the demonstrations.

    The rates fall linearly to 5 % of their peaks at whichever budget is nearer its end.
    """

    token_budget: int | None = None
    time_budget_s: float | None = None
    batch_tokens: int = 4096
    microbatch_tokens: int = 65_536
    lr: float = 0.02
    adamw_lr: float = 3e-3
    warmup_steps: int = 10
    grad_clip: float = 1.0
    autocast: bool = True


@dataclass(frozen=True, slots=True)
class CopySettings:
    """How to warm up: until the copy loss is below `target_nll` (nats a token) or for `max_steps`."""

    max_steps: int = 800
    target_nll: float = 0.3
    batch_tokens: int = 4096
    length: int = 256
    chunk_low: int = 4
    chunk_high: int = 24
    lr: float = 0.02
    adamw_lr: float = 3e-3
    grad_clip: float = 1.0
    autocast: bool = True


def clone(
    model: Qwen3ForCausalLM,
    examples: Iterable[Demonstration],
    settings: CloneSettings,
    *,
    progress: Callable[[Progress], None] | None = None,
    optimizer: Optimizer | None = None,
    resume: Progress | None = None,
) -> Progress:
    """Minimise Σ w·(−log π) / Σ w over the demonstrations, in the order in which they come.

    Args:
        examples: consumed batch by batch, once; shuffle and repeat before, not here.
        progress: called after every step; what it is given, with the model's and the optimiser's state,
            is all that a checkpoint needs.
        optimizer: the one from `clone_optimizer`, for a run that is to be resumed.
        resume: the progress of the checkpoint; `examples` must start over, and is skipped up to there.

    Raises:
        AlignmentError: a demonstration with as many weights as tokens is expected and was not given.
    """
    optimizer = optimizer or clone_optimizer(model, settings)
    state = resume or Progress()
    began = time.monotonic() - state.seconds
    for batch in _batches(islice(iter(examples), state.examples, None), settings.batch_tokens):
        spent = _spent(settings, state.tokens, time.monotonic() - began)
        if spent >= 1:
            break
        started = time.monotonic()
        tokens = sum(len(example.ids) for example in batch)
        metrics = _step(model, optimizer, batch, settings, spent)
        now = time.monotonic()
        state = Progress(
            state.steps + 1,
            state.examples + len(batch),
            state.tokens + tokens,
            now - began,
            {**metrics, "actor/lr": optimizer.lr, "perf/tokens_per_s": tokens / (now - started)},
        )
        if progress is not None:
            progress(state)
    return state


def clone_optimizer(model: Qwen3ForCausalLM, settings: CloneSettings) -> Optimizer:
    """Build the optimiser that `clone` uses: Muon for the hidden matrices, AdamW for the rest."""
    decays = settings.token_budget is not None or settings.time_budget_s is not None
    return build_optimizer(
        model,
        "muon",
        settings.lr,
        adamw_lr=settings.adamw_lr,
        grad_clip=settings.grad_clip,
        rate=LearningRate("linear" if decays else "constant", settings.warmup_steps),
    )


def copy_warmup(
    model: Qwen3ForCausalLM,
    settings: CopySettings,
    *,
    seed: int = 0,
    progress: Callable[[Progress], None] | None = None,
) -> Progress:
    """Teach a new model to copy: the loss is on tokens that continue a bigram seen earlier in the row.

    The ids are uniform over the vocabulary, so nothing but copying predicts them. The warm-up does not
    depend on the task and can be cached.
    """
    device = model.device
    optimizer = build_optimizer(
        model, "muon", settings.lr, adamw_lr=settings.adamw_lr, grad_clip=settings.grad_clip
    )
    generator = torch.Generator().manual_seed(seed)
    rows = max(1, settings.batch_tokens // settings.length)
    state = Progress()
    smoothed: float | None = None
    began = time.monotonic()
    while state.steps < settings.max_steps:
        started = time.monotonic()
        ids = [_copying_row(settings, model.config.vocab_size, generator) for _ in range(rows)]
        batch = collate(ids, [_repeats(row) for row in ids], device)
        with autocast(device, settings.autocast):
            nll = -logprobs(model, batch, float32_head=False).logprobs_N.mean()
        nll.backward()
        optimizer.step()
        now = time.monotonic()
        last = float(nll.detach())
        smoothed = last if smoothed is None else 0.8 * smoothed + 0.2 * last
        tokens = rows * settings.length
        metrics = {"copy/nll": last, "perf/tokens_per_s": tokens / (now - started)}
        state = Progress(state.steps + 1, state.examples + rows, state.tokens + tokens, now - began, metrics)
        if progress is not None:
            progress(state)
        if smoothed < settings.target_nll:
            break
    return state


def _step(
    model: Qwen3ForCausalLM,
    optimizer: Optimizer,
    batch: Sequence[Demonstration],
    settings: CloneSettings,
    spent: float,
) -> dict[str, float]:
    device = model.device
    ids = [torch.tensor(example.ids) for example in batch]
    weights = [_weights(example) for example in batch]
    total = float(sum(weight_T.sum() for weight_T in weights))
    sums = torch.zeros(4, device=device)
    for members in pack([len(row) for row in ids], settings.microbatch_tokens):
        weight_T = torch.cat([weights[i] for i in members])
        packed = collate([ids[i] for i in members], [weights[i] > 0 for i in members], device)
        weight_N = weight_T[weight_T > 0].to(device)
        with autocast(device, settings.autocast):
            nll_N = -logprobs(model, packed, float32_head=False).logprobs_N
        ((nll_N * weight_N).sum() / max(total, 1e-8)).backward()
        action_N = (weight_N >= ACTION_WEIGHT).float()
        nll_N = nll_N.detach()
        sums += torch.stack(
            [(nll_N * action_N).sum(), action_N.sum(), (nll_N * (1 - action_N)).sum(), (1 - action_N).sum()]
        )
    norm = optimizer.step(spent)
    action, actions, observation, observations = cast("list[float]", sums.tolist())
    return {
        "clone/action_nll": action / max(actions, 1.0),
        "clone/observation_nll": observation / max(observations, 1.0),
        "actor/grad_norm": norm,
    }


def _weights(example: Demonstration) -> Tensor:
    if len(example.weights) != len(example.ids):
        raise AlignmentError(
            "clone.misaligned",
            f"a demonstration has {len(example.ids)} tokens and {len(example.weights)} weights",
        )
    weight_T = torch.tensor(example.weights, dtype=torch.float32)
    # Nothing predicts the first token.
    weight_T[:1] = 0.0
    return weight_T


def _batches(examples: Iterator[Demonstration], batch_tokens: int) -> Iterator[list[Demonstration]]:
    batch: list[Demonstration] = []
    tokens = 0
    for example in examples:
        batch.append(example)
        tokens += len(example.ids)
        if tokens >= batch_tokens:
            yield batch
            batch, tokens = [], 0
    if batch:
        yield batch


def _spent(settings: CloneSettings, tokens: int, seconds: float) -> float:
    shares = [0.0]
    if settings.token_budget is not None:
        shares.append(tokens / settings.token_budget)
    if settings.time_budget_s is not None:
        shares.append(seconds / settings.time_budget_s)
    return max(shares)


def _copying_row(settings: CopySettings, vocab_size: int, generator: torch.Generator) -> Tensor:
    """Return random ids in which every other chunk is a copy of an earlier stretch."""

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    row_T = torch.randint(0, vocab_size, (settings.length,), generator=generator)
    filled = draw(settings.chunk_low, 2 * settings.chunk_high)
    while filled < settings.length:
        size = min(draw(settings.chunk_low, settings.chunk_high + 1), filled, settings.length - filled)
        start = draw(0, filled - size + 1)
        row_T[filled : filled + size] = row_T[start : start + size].clone()
        filled += size + draw(0, settings.chunk_high)
    return row_T


def _repeats(row_T: Tensor) -> Tensor:
    """Return True at tokens t whose bigram (t−1, t) occurred before in the row."""
    seen: set[tuple[int, int]] = set()
    repeated = [False]
    ids = cast("list[int]", row_T.tolist())
    for bigram in pairwise(ids):
        repeated.append(bigram in seen)
        seen.add(bigram)
    return torch.tensor(repeated)
