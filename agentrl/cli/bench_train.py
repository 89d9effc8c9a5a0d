"""How fast a training step is: packed sequences beside the usual padded batch, in one run.

Both do forward, backward and the optimiser's step on the same episodes with the same model; they take
turns, and each figure is the median of its rounds, so that a busy machine slows both alike. Tokens are
real ones: padding counts for nothing.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import Qwen3ForCausalLM

from agentrl.train.model import ModelShape, new_model
from agentrl.train.optimizer import Optimizer, build_optimizer
from agentrl.train.packing import autocast, collate, logprobs

__all__ = ["rows"]

EPISODES = 8
MEAN_TOKENS = 780
MAX_TOKENS = 1900
ROUNDS = 3
VOCAB_SIZE = 1000


def rows() -> list[dict[str, Any]]:
    """Measure tokens trained a second, packed against padded, in float32 and under bfloat16 autocast."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = new_model(ModelShape(), VOCAB_SIZE).to(device)  # pyright: ignore[reportArgumentType]
    optimizer = build_optimizer(model)
    sequences = _episodes()
    tokens = sum(len(sequence) for sequence in sequences)
    measured: list[dict[str, Any]] = []
    for precision, half in (("float32", False), ("bfloat16 autocast", True)):
        packed_s, padded_s = _alternate(
            lambda half=half: _packed(model, optimizer, sequences, device, half),
            lambda half=half: _padded(model, optimizer, sequences, device, half),
        )
        measured.append(
            {
                "what": f"train step, {precision}",
                "value": tokens / packed_s,
                "unit": "tokens/s",
                "baseline": "padded batch, transformers' SDPA",
                "baseline_value": tokens / padded_s,
                "ratio": padded_s / packed_s,
            }
        )
    return measured


def _episodes() -> list[Tensor]:
    rng = random.Random(0)
    lengths = [min(MAX_TOKENS, 64 + int(rng.expovariate(1 / (MEAN_TOKENS - 64)))) for _ in range(EPISODES)]
    return [torch.tensor([rng.randrange(VOCAB_SIZE) for _ in range(length)]) for length in lengths]


def _packed(
    model: Qwen3ForCausalLM, optimizer: Optimizer, sequences: list[Tensor], device: torch.device, half: bool
) -> None:
    batch = collate(sequences, [torch.arange(len(sequence)) > 0 for sequence in sequences], device)
    with autocast(device, half):
        loss = -logprobs(model, batch, float32_head=False).logprobs_N.mean()
    loss.backward()
    optimizer.step()


def _padded(
    model: Qwen3ForCausalLM, optimizer: Optimizer, sequences: list[Tensor], device: torch.device, half: bool
) -> None:
    ids_BT = pad_sequence(sequences, batch_first=True).to(device)
    mask_BT = pad_sequence([torch.ones_like(sequence) for sequence in sequences], batch_first=True).to(device)
    forward = cast("Callable[..., Any]", model)
    with autocast(device, half):
        logits_BTV: Tensor = forward(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    logprobs_BT = logits_BTV[:, :-1].float().log_softmax(-1).gather(2, ids_BT[:, 1:, None]).squeeze(2)
    loss = -(logprobs_BT * mask_BT[:, 1:]).sum() / mask_BT[:, 1:].sum()
    loss.backward()
    optimizer.step()


def _alternate(first: Callable[[], None], second: Callable[[], None]) -> tuple[float, float]:
    seconds: tuple[list[float], list[float]] = ([], [])
    for round_ in range(ROUNDS + 1):
        for work, spent in zip((first, second), seconds, strict=True):
            started = time.perf_counter()
            work()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_:
                spent.append(time.perf_counter() - started)
    return statistics.median(seconds[0]), statistics.median(seconds[1])
