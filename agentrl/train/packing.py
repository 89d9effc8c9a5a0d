"""Padding-free batches: sequences laid end to end, and log-probs of chosen tokens out of them.

    pack       which sequences share a micro-batch
    collate    lists of sequences -> one `Packed` batch
    logprobs   `Packed` + model -> log π and entropy of the chosen tokens, logits never held whole

Axes: `_T` packed tokens, `_N` chosen tokens, `_B` sequences of the batch, `_L` slots of the padded view.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal, cast

import torch
from torch import Tensor
from torch.nn.functional import linear
from torch.utils import checkpoint
from transformers import Qwen3ForCausalLM

__all__ = ["Packed", "TokenLogprobs", "autocast", "collate", "logprobs", "pack"]

LOGITS_PER_CHUNK = 1 << 24
"""Most logits alive at a time: 64 MiB in float32."""


@dataclass(frozen=True, slots=True, eq=False)
class Packed:
    """Sequences end to end.

    Attributes:
        ids_T: token ids.
        positions_T: position of each token in its own sequence.
        bounds: `[B + 1]` int32 cumulative lengths.
        longest: length of the longest sequence.
        source_N: packed position whose hidden state predicts the chosen token.
        target_N: id of the chosen token.
        row_N: sequence that the chosen token belongs to.
        slot_N: rank of the chosen token among the chosen ones of its sequence.
        slots: largest number of chosen tokens in a sequence, L.
    """

    ids_T: Tensor
    positions_T: Tensor
    bounds: Tensor
    longest: int
    source_N: Tensor
    target_N: Tensor
    row_N: Tensor
    slot_N: Tensor
    slots: int

    def by_sequence(self, values_N: Tensor) -> Tensor:
        """Return chosen tokens as `[B, L]`, zero where a sequence has fewer; differentiable."""
        blank_BL = values_N.new_zeros(len(self.bounds) - 1, self.slots)
        return blank_BL.index_put((self.row_N, self.slot_N), values_N)


@dataclass(frozen=True, slots=True)
class TokenLogprobs:
    """log π(x) and entropy (nats, None unless asked for) of each chosen token, float32."""

    logprobs_N: Tensor
    entropies_N: Tensor | None


def pack(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Share sequences out over as few equally loaded micro-batches of `max_tokens` as a greedy rule finds.

    Longest first, each onto the lightest micro-batch; ties go to the lowest index, so the result depends
    on the lengths alone. A sequence longer than `max_tokens` gets a micro-batch of its own.
    """
    if not lengths:
        return []
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    count = -(-sum(lengths) // max_tokens)
    while True:
        count = min(count, len(lengths))
        heap = [(0, bin_index) for bin_index in range(count)]
        bins: list[list[int]] = [[] for _ in range(count)]
        for i in order:
            load, bin_index = heapq.heappop(heap)
            bins[bin_index].append(i)
            heapq.heappush(heap, (load + lengths[i], bin_index))
        fits = all(load <= max_tokens or len(bins[bin_index]) == 1 for load, bin_index in heap)
        if fits or count == len(lengths):
            return [sorted(members) for members in bins]
        count += 1


def collate(ids: Sequence[Tensor], chosen: Sequence[Tensor], device: torch.device) -> Packed:
    """Lay sequences end to end; `chosen[b]` is True at the tokens whose log-prob is wanted.

    A sequence's first token has nothing to be predicted from and must not be chosen.
    """
    lengths = torch.tensor([len(sequence) for sequence in ids])
    bounds = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    chosen_T = torch.cat(list(chosen))
    ids_T = torch.cat(list(ids))
    position_N = chosen_T.nonzero().squeeze(1)
    counts_B = torch.tensor([int(flags.sum()) for flags in chosen])
    firsts_B = counts_B.cumsum(0) - counts_B
    row_N = torch.repeat_interleave(torch.arange(len(ids)), counts_B)

    def move(tensor: Tensor) -> Tensor:
        return tensor.to(device, non_blocking=True)

    return Packed(
        ids_T=move(ids_T),
        positions_T=move(torch.cat([torch.arange(int(length)) for length in lengths])),
        bounds=move(bounds.to(torch.int32)),
        longest=int(lengths.max()),
        source_N=move(position_N - 1),
        target_N=move(ids_T[position_N]),
        row_N=move(row_N),
        slot_N=move(torch.arange(len(position_N)) - firsts_B[row_N]),
        slots=int(counts_B.max()),
    )


def logprobs(
    model: Qwen3ForCausalLM,
    batch: Packed,
    *,
    entropy: Literal["none", "value", "gradient"] = "none",
    float32_head: bool = True,
) -> TokenLogprobs:
    """Run the packed forward pass and score the chosen tokens.

    Args:
        entropy: "value" reports H = log Σ e^z − Σ p z without a gradient, "gradient" with one.
        float32_head: compute logits in float32 even under autocast, so that log-probs agree with the
            sampler's; half precision costs about 1e-2 nats a token.
    """
    hidden_ND = hidden_states(model, batch)[batch.source_N]
    head_VD: Tensor = model.lm_head.weight
    chunk = max(1, LOGITS_PER_CHUNK // head_VD.shape[0])
    scored: list[tuple[Tensor, Tensor | None]] = []
    for start in range(0, len(hidden_ND), chunk):
        rows = slice(start, start + chunk)
        arguments = (hidden_ND[rows], head_VD, batch.target_N[rows], entropy, float32_head)
        # One chunk's logits may stay alive until the backward pass; of several, each is computed again.
        if len(hidden_ND) > chunk and torch.is_grad_enabled():
            scored.append(_score_again(*arguments))
        else:
            scored.append(_score(*arguments))
    if not scored:
        empty = hidden_ND.float().sum(dim=-1)
        return TokenLogprobs(empty, None if entropy == "none" else empty)
    entropies = [value for _, value in scored if value is not None]
    return TokenLogprobs(
        torch.cat([value for value, _ in scored]), torch.cat(entropies) if entropies else None
    )


def hidden_states(model: Qwen3ForCausalLM, batch: Packed) -> Tensor:
    """Return the last hidden states `[T, D]`; each sequence is computed as if it were alone."""
    body: Any = model.model
    output = body(
        input_ids=batch.ids_T[None],
        position_ids=batch.positions_T[None],
        # A ready mapping keeps transformers from building masks, which here would be dense [T, T].
        attention_mask={"full_attention": None},
        use_cache=False,
        cu_seq_lens_q=batch.bounds,
        cu_seq_lens_k=batch.bounds,
        max_length_q=batch.longest,
        max_length_k=batch.longest,
    )
    hidden_1TD: Tensor = output.last_hidden_state
    return hidden_1TD[0]


def autocast(device: torch.device, enabled: bool) -> AbstractContextManager[Any]:
    """Return the bfloat16 context for a device, or one that does nothing."""
    return torch.autocast(device.type, torch.bfloat16) if enabled else nullcontext()


def _score_again(*arguments: Any) -> tuple[Tensor, Tensor | None]:
    again = cast("Callable[..., tuple[Tensor, Tensor | None]]", checkpoint.checkpoint)
    return again(_score, *arguments, use_reentrant=False)


def _score(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, entropy: str, float32_head: bool
) -> tuple[Tensor, Tensor | None]:
    if float32_head:
        with torch.autocast(hidden_ND.device.type, enabled=False):
            logits_NV = linear(hidden_ND.float(), weight_VD.float())
    else:
        logits_NV = linear(hidden_ND, weight_VD).float()
    total_N = logits_NV.logsumexp(dim=-1)
    logprobs_N = logits_NV.gather(1, target_N[:, None]).squeeze(1) - total_N
    if entropy == "none":
        return logprobs_N, None
    with torch.set_grad_enabled(entropy == "gradient" and torch.is_grad_enabled()):
        probs_NV = (logits_NV - total_N[:, None]).exp()
        return logprobs_N, total_N - (probs_NV * logits_NV).sum(dim=-1)
