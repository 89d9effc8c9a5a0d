"""The forward pass: ragged pieces of many sessions in, logits out, over one preallocated key-value cache.

What a token's logits are depends on the tokens before it in its session and on nothing else: not on which
sessions share the batch, not on where a context was cut into pieces, not on whether it was computed at
once or token by token. That holds bit by bit because

* rows of a matrix product do not mix, and every product has at least `ROW_TILE` rows (a matrix library
  picks another kernel, which rounds differently, only for fewer);
* attention has at least `MIN_ROWS` query rows, and walks the keys in blocks of fixed size, so that the
  order of its sums does not depend on how long the cache is padded: what lies beyond a session's own
  length adds exact zeros.

`choose_linear` and `Network.self_check` measure on this machine that these premises hold.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from agentrl.policy.local.kernels import ROW_TILE, choose_linear
from agentrl.policy.local.weights import Layer, Weights

__all__ = ["KEY_BLOCK", "Network", "Piece"]

MIN_ROWS = 4
KEY_BLOCK = 128
WASTED_KEYS = 768


@dataclass(frozen=True, slots=True)
class Piece:
    """What one session adds in a step: `tokens` at positions `start`, `start + 1`, … of its slot."""

    slot: int
    start: int
    tokens: Sequence[int]


@dataclass(frozen=True, slots=True)
class _Tile:
    """Neighbouring slots that decode together, padded to `keys` keys."""

    first: int
    last: int
    keys: int
    bias: Tensor  # [slots, 1, 1, keys]: 0 where a session has a key, -inf beyond


@dataclass(frozen=True, slots=True)
class _Span:
    """The rows of one session that adds several tokens."""

    slot: int
    first: int
    last: int
    keys: int
    bias: Tensor  # [rows, 1, keys]: 0 up to each token's own position, -inf beyond


@dataclass(frozen=True, slots=True)
class _Plan:
    """A step's rows: those of single-token pieces first, then the longer pieces, then padding."""

    rows: int
    token_P: Tensor
    cos_P1D: Tensor
    sin_P1D: Tensor
    cache_rows: Tensor  # for every row and kv head, its row in a flattened cache
    single_slots: Tensor
    tiles: tuple[_Tile, ...]
    spans: tuple[_Span, ...]


class Network:
    """A Qwen3 over `slots` sessions of at most `max_tokens` tokens each."""

    def __init__(self, weights: Weights, *, slots: int, max_tokens: int) -> None:
        """Allocate the cache: `layers * 2 * slots * kv_heads * max_tokens * head_dim` numbers."""
        arch = weights.arch
        device, dtype = weights.embedding.device, weights.embedding.dtype
        self.weights = weights
        self.slots = slots
        self._capacity = _padded(max_tokens, KEY_BLOCK)
        self._group_rows = max(MIN_ROWS, arch.group)
        shape = (self.slots, arch.kv_heads, self._capacity, arch.head_dim)
        self._keys = [_zeros(shape, device=device, dtype=dtype) for _ in weights.layers]
        self._values = [_zeros(shape, device=device, dtype=dtype) for _ in weights.layers]
        queries = (self.slots, arch.kv_heads, self._group_rows, arch.head_dim)
        self._queries = torch.zeros(queries, device=device, dtype=dtype)
        self._attended = torch.zeros(queries, device=device, dtype=dtype)
        self._cos, self._sin = _rotary_tables(
            arch.rope_theta, arch.head_dim, self._capacity, device=device, dtype=dtype
        )
        self._positions = torch.arange(self._capacity, device=device)
        self._device = device
        first = weights.layers[0]
        self._linear = choose_linear((first.qkv, first.out, first.gate_up, first.down, weights.head))

    @torch.inference_mode()
    def forward(self, pieces: Sequence[Piece]) -> tuple[Tensor, list[int]]:
        """Append the pieces to their slots.

        Returns:
            The last layer's hidden states `[rows, hidden]`, and the first row of each piece.
        """
        plan, first_rows = self._plan(pieces)
        hidden_PH = F.embedding(plan.token_P, self.weights.embedding)
        for index, layer in enumerate(self.weights.layers):
            hidden_PH = self._layer(hidden_PH, layer, index, plan)
        return hidden_PH, first_rows

    @torch.inference_mode()
    def logits(self, hidden_PH: Tensor, rows: Sequence[int]) -> Tensor:
        """Return float32 logits `[>= len(rows), vocab]` of some rows, padded to a whole tile."""
        padding = _padded(len(rows), ROW_TILE) - len(rows)
        chosen = torch.tensor([*rows, *[rows[0]] * padding], device=self._device)
        eps = self.weights.arch.norm_eps
        normed_RH = F.rms_norm(hidden_PH[chosen], (hidden_PH.shape[1],), self.weights.norm, eps)
        return self._linear(normed_RH, self.weights.head).float()

    @torch.inference_mode()
    def copy(self, source: int, target: int, tokens: int) -> None:
        """Copy the first `tokens` keys and values of one slot to another."""
        for cache in (*self._keys, *self._values):
            cache[target, :, :tokens] = cache[source, :, :tokens]

    @torch.inference_mode()
    def wipe(self, slot: int) -> None:
        """Zero a slot: a NaN left behind would spoil its next session, since 0 * NaN is NaN."""
        for cache in (*self._keys, *self._values):
            cache[slot].zero_()

    def self_check(self) -> bool:
        """Whether tokens computed at once and one by one agree bit by bit here; overwrites slot 0."""
        count = min(KEY_BLOCK + 3, self._capacity)
        tokens = [index * 7 % self.weights.arch.vocab for index in range(count)]
        at_once, _ = self.forward([Piece(0, 0, tokens)])
        self.forward([Piece(0, 0, tokens[:-3])])
        one_by_one = [self.forward([Piece(0, p, tokens[p : p + 1])])[0][0] for p in range(count - 3, count)]
        return torch.equal(at_once[count - 3 : count], torch.stack(one_by_one))

    def _plan(self, pieces: Sequence[Piece]) -> tuple[_Plan, list[int]]:
        singles = [i for i, piece in enumerate(pieces) if len(piece.tokens) == 1]
        longer = [i for i, piece in enumerate(pieces) if len(piece.tokens) > 1]
        first_rows = [0] * len(pieces)
        tokens: list[int] = []
        positions: list[int] = []
        slots: list[int] = []
        spans: list[_Span] = []
        for i in (*singles, *longer):
            piece = pieces[i]
            first_rows[i] = len(tokens)
            stop = piece.start + len(piece.tokens)
            tokens += piece.tokens
            positions += range(piece.start, stop)
            slots += [piece.slot] * len(piece.tokens)
            if len(piece.tokens) > 1:
                spans.append(self._span(piece, first_rows[i], stop))
        rows = len(tokens)
        padding = [0] * (_padded(rows, ROW_TILE) - rows)
        position_P = torch.tensor(positions + padding, device=self._device)
        plan = _Plan(
            rows=rows,
            token_P=torch.tensor(tokens + padding, device=self._device),
            cos_P1D=self._cos[position_P][:, None],
            sin_P1D=self._sin[position_P][:, None],
            cache_rows=self._cache_rows(torch.tensor(slots, device=self._device), position_P[:rows]),
            single_slots=torch.tensor(slots[: len(singles)], device=self._device, dtype=torch.long),
            tiles=self._tiles([pieces[i] for i in singles]),
            spans=tuple(spans),
        )
        return plan, first_rows

    def _cache_rows(self, slot_R: Tensor, position_R: Tensor) -> Tensor:
        kv_heads = self.weights.arch.kv_heads
        head = torch.arange(kv_heads, device=self._device)
        return ((slot_R[:, None] * kv_heads + head) * self._capacity + position_R[:, None]).flatten()

    def _span(self, piece: Piece, first: int, stop: int) -> _Span:
        keys = _padded(stop, KEY_BLOCK)
        own_S = self._positions[piece.start : stop]
        bias = _bias(self._positions[:keys] > own_S[:, None])
        return _Span(piece.slot, first, first + len(piece.tokens), keys, bias[:, None, :])

    def _tiles(self, singles: Sequence[Piece]) -> tuple[_Tile, ...]:
        last_key = {piece.slot: piece.start for piece in singles}
        tiles: list[_Tile] = []
        for slots in _runs({slot: last_key[slot] + 1 for slot in sorted(last_key)}):
            # An idle slot in between looks at its key 0: any finite value will do, nobody reads the result.
            own = [last_key.get(slot, 0) for slot in slots]
            keys = _padded(max(own) + 1, KEY_BLOCK)
            own_B = torch.tensor(own, device=self._device)
            bias = _bias(self._positions[:keys] > own_B[:, None])
            tiles.append(_Tile(slots.start, slots.stop, keys, bias[:, None, None, :]))
        return tuple(tiles)

    def _layer(self, hidden_PH: Tensor, layer: Layer, index: int, plan: _Plan) -> Tensor:
        arch = self.weights.arch
        rows, q_and_k = hidden_PH.shape[0], arch.heads + arch.kv_heads
        normed_PH = F.rms_norm(hidden_PH, (arch.hidden,), layer.input_norm, arch.norm_eps)
        qkv_PND = self._linear(normed_PH, layer.qkv).view(rows, q_and_k + arch.kv_heads, arch.head_dim)
        qk_PND = F.rms_norm(qkv_PND[:, :q_and_k], (arch.head_dim,), None, arch.norm_eps) * layer.qk_norm
        qk_PND = _rotate(qk_PND, plan.cos_P1D, plan.sin_P1D)
        keys, values = self._keys[index], self._values[index]
        new_keys, new_values = qk_PND[: plan.rows, arch.heads :], qkv_PND[: plan.rows, q_and_k:]
        keys.view(-1, arch.head_dim).index_copy_(0, plan.cache_rows, new_keys.reshape(-1, arch.head_dim))
        values.view(-1, arch.head_dim).index_copy_(0, plan.cache_rows, new_values.reshape(-1, arch.head_dim))
        query_PKGD = qk_PND[:, : arch.heads].view(rows, arch.kv_heads, arch.group, arch.head_dim)
        attended_PN = self._attend(query_PKGD, keys, values, plan).view(rows, arch.heads * arch.head_dim)
        hidden_PH = hidden_PH + self._linear(attended_PN, layer.out)
        normed_PH = F.rms_norm(hidden_PH, (arch.hidden,), layer.post_norm, arch.norm_eps)
        gate_up_PF = self._linear(normed_PH, layer.gate_up)
        gated_PF = F.silu(gate_up_PF[:, : arch.ffn]) * gate_up_PF[:, arch.ffn :]
        return hidden_PH + self._linear(gated_PF, layer.down)

    def _attend(self, query_PKGD: Tensor, keys: Tensor, values: Tensor, plan: _Plan) -> Tensor:
        group = query_PKGD.shape[2]
        attended_PKGD = torch.zeros_like(query_PKGD, memory_format=torch.contiguous_format)
        if plan.tiles:
            singles = len(plan.single_slots)
            self._queries[plan.single_slots, :, :group] = query_PKGD[:singles]
            for tile in plan.tiles:
                self._attend_tile(tile, keys, values)
            attended_PKGD[:singles] = self._attended[plan.single_slots, :, :group]
        for span in plan.spans:
            query = query_PKGD[span.first : span.last]
            attended_PKGD[span.first : span.last] = self._attend_span(span, query, keys, values)
        return attended_PKGD

    def _attend_tile(self, tile: _Tile, keys: Tensor, values: Tensor) -> None:
        slots = slice(tile.first, tile.last)
        query_BGD = self._queries[slots].flatten(0, 1)
        key_BTD, value_BTD = (cache[slots].flatten(0, 1)[:, : tile.keys] for cache in (keys, values))
        scores_BGT = torch.bmm(query_BGD, key_BTD.transpose(1, 2))
        by_slot = scores_BGT.view(tile.last - tile.first, -1, self._group_rows, tile.keys)
        by_slot += tile.bias
        attended_BGD = _weighted_sum(torch.softmax(scores_BGT, dim=-1), value_BTD)
        self._attended[slots] = attended_BGD.view_as(self._attended[slots])

    def _attend_span(self, span: _Span, query_SKGD: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        length, kv_heads, group, head_dim = query_SKGD.shape
        query_KRD = query_SKGD.transpose(0, 1).reshape(kv_heads, length * group, head_dim)
        query_KRD = F.pad(query_KRD, (0, 0, 0, max(0, MIN_ROWS - length * group)))
        scores_KRT = torch.bmm(query_KRD, keys[span.slot, :, : span.keys].transpose(1, 2))
        by_token = scores_KRT[:, : length * group].view(kv_heads, length, group, span.keys)
        by_token += span.bias
        attended_KRD = _weighted_sum(torch.softmax(scores_KRT, dim=-1), values[span.slot, :, : span.keys])
        return attended_KRD[:, : length * group].view(kv_heads, length, group, head_dim).transpose(0, 1)


def _weighted_sum(p_BRT: Tensor, value_BTD: Tensor) -> Tensor:
    """Return `p @ value`, one block of keys after the other, so that the order of the sum is fixed."""
    total = torch.bmm(p_BRT[:, :, :KEY_BLOCK], value_BTD[:, :KEY_BLOCK])
    for start in range(KEY_BLOCK, p_BRT.shape[2], KEY_BLOCK):
        block = slice(start, start + KEY_BLOCK)
        total.baddbmm_(p_BRT[:, :, block], value_BTD[:, block])
    return total


def _rotate(x_PND: Tensor, cos_P1D: Tensor, sin_P1D: Tensor) -> Tensor:
    first, second = x_PND.chunk(2, dim=-1)
    return torch.cat((first * cos_P1D - second * sin_P1D, second * cos_P1D + first * sin_P1D), dim=-1)


def _zeros(shape: Sequence[int], *, device: torch.device, dtype: torch.dtype) -> Tensor:
    if device.type != "cpu":
        return torch.zeros(*shape, device=device, dtype=dtype)
    # These zeros are pages that the system hands out when touched: a big cache costs what is used of it.
    return torch.frombuffer(bytearray(math.prod(shape) * dtype.itemsize), dtype=dtype).view(*shape)


def _rotary_tables(
    theta: float, head_dim: int, tokens: int, *, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    frequency_D = 1.0 / theta ** (torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim)
    angle_TD = torch.arange(tokens, dtype=torch.float32)[:, None] * frequency_D
    return angle_TD.cos().to(device, dtype), angle_TD.sin().to(device, dtype)


def _bias(hidden: Tensor) -> Tensor:
    return torch.zeros(hidden.shape, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _runs(keys_of: Mapping[int, int]) -> Iterator[range]:
    """Cut ascending slots into runs that decode together as one view of the cache.

    A run may pay for at most `WASTED_KEYS` keys that nobody needs: padding to its longest session, and
    idle slots in between. Beyond that, another (small) kernel call is cheaper.
    """
    first = last = -1
    longest = needed = 0
    for slot, keys in keys_of.items():
        wasted = (slot + 1 - first) * max(longest, keys) - needed - keys
        if first >= 0 and wasted > WASTED_KEYS:
            yield range(first, last + 1)
            first = -1
        if first < 0:
            first, longest, needed = slot, 0, 0
        last, longest, needed = slot, max(longest, keys), needed + keys
    if first >= 0:
        yield range(first, last + 1)


def _padded(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple
