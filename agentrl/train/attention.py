"""Causal attention over packed sequences, registered with transformers under the name `PACKED`.

A packed batch is one row that holds many sequences end to end; `cu_seq_lens_q` says where each begins.
No mask is ever built: a sequence attends within its own slice. A call without `cu_seq_lens_q` (one
sequence, a padded batch, generation) goes to transformers' own SDPA, so that a model with this attention
still does all that it did before.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import masking_utils
from transformers.integrations import sdpa_attention
from transformers.modeling_utils import AttentionInterface

__all__ = ["PACKED"]

PACKED = "agentrl_packed"


def packed_attention(
    module: torch.nn.Module,
    query_1HTD: Tensor,
    key_1KTD: Tensor,
    value_1KTD: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    cu_seq_lens_q: Tensor | None = None,
    max_length_q: int = 0,
    **rest: Any,
) -> tuple[Tensor, None]:
    """Attend causally within each sequence; returns `[1, T, H, D]` as transformers expects."""
    if cu_seq_lens_q is None:
        plain = cast("Callable[..., tuple[Tensor, None]]", sdpa_attention.sdpa_attention_forward)
        return plain(module, query_1HTD, key_1KTD, value_1KTD, attention_mask, scaling=scaling, **rest)
    if query_1HTD.is_cuda:
        dtype = _compute_dtype(query_1HTD)
        if dtype is not None and _varlen is not None:
            q_THD, k_TKD, v_TKD = (
                states[0].transpose(0, 1).to(dtype) for states in (query_1HTD, key_1KTD, value_1KTD)
            )
            return _varlen(q_THD, k_TKD, v_TKD, cu_seq_lens_q, max_length_q, scaling)[None], None
    bounds = cast("list[int]", cu_seq_lens_q.tolist())
    lengths = [end - start for start, end in pairwise(bounds)]
    return _attend_each(query_1HTD, key_1KTD, value_1KTD, lengths, scaling), None


def _attend_each(
    q_1HTD: Tensor, k_1KTD: Tensor, v_1KTD: Tensor, lengths: list[int], scale: float | None
) -> Tensor:
    """Attend sequence by sequence, or in one call where all have the same length; `[1, T, H, D]`."""
    count, longest = len(lengths), max(lengths)
    if count * longest == sum(lengths):
        q_BHLD, k_BKLD, v_BKLD = (
            states.view(states.shape[1], count, longest, states.shape[3]).transpose(0, 1)
            for states in (q_1HTD, k_1KTD, v_1KTD)
        )
        output_BHLD = scaled_dot_product_attention(
            q_BHLD, k_BKLD, v_BKLD, is_causal=True, scale=scale, enable_gqa=True
        )
        return output_BHLD.transpose(1, 2).flatten(0, 1)[None]
    outputs_1HLD = [
        scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=True)
        for q, k, v in zip(
            torch.split(q_1HTD, lengths, dim=2),
            torch.split(k_1KTD, lengths, dim=2),
            torch.split(v_1KTD, lengths, dim=2),
            strict=True,
        )
    ]
    return torch.cat(outputs_1HLD, dim=2).transpose(1, 2)


def _compute_dtype(states: Tensor) -> torch.dtype | None:
    """Return the half precision to attend in, or None where the caller works in float32."""
    dtype = torch.get_autocast_dtype("cuda") if torch.is_autocast_enabled("cuda") else states.dtype
    return dtype if dtype in (torch.bfloat16, torch.float16) else None


def _find_varlen() -> Callable[[Tensor, Tensor, Tensor, Tensor, int, float | None], Tensor] | None:
    """Adapt `torch.nn.attention.varlen.varlen_attn`, whose signature has moved between releases."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    parameters = inspect.signature(varlen_attn).parameters
    attend = cast("Callable[..., Tensor]", varlen_attn)
    causal: dict[str, Any] = {"window_size": (-1, 0)} if "window_size" in parameters else {"is_causal": True}
    grouped = "enable_gqa" in parameters
    scalable = "scale" in parameters

    def varlen(
        q_THD: Tensor, k_TKD: Tensor, v_TKD: Tensor, bounds: Tensor, longest: int, scale: float | None
    ) -> Tensor:
        options = dict(causal)
        if grouped:
            options["enable_gqa"] = True
        else:
            groups = q_THD.shape[1] // k_TKD.shape[1]
            k_TKD, v_TKD = (states.repeat_interleave(groups, dim=1) for states in (k_TKD, v_TKD))
        if scalable:
            options["scale"] = scale
        elif scale is not None:
            q_THD = q_THD * (scale * q_THD.shape[-1] ** 0.5)
        return attend(q_THD, k_TKD, v_TKD, bounds, bounds, longest, longest, **options)

    return varlen


_varlen = _find_varlen()
AttentionInterface.register(PACKED, packed_attention)
masking_utils.AttentionMaskInterface.register(PACKED, masking_utils.sdpa_mask)
