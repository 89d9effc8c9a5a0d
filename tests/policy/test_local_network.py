from __future__ import annotations

import random

import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

from agentrl.policy.local.network import KEY_BLOCK, Network, Piece
from agentrl.policy.local.weights import Weights, read_module


def build(
    heads: int, kv_heads: int, head_dim: int, hidden: int, *, tied: bool
) -> tuple[Qwen3ForCausalLM, Network]:
    torch.manual_seed(1)
    config = Qwen3Config(
        vocab_size=320,
        hidden_size=hidden,
        num_hidden_layers=2,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        head_dim=head_dim,
        intermediate_size=96,
        tie_word_embeddings=tied,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
    )
    model = Qwen3ForCausalLM(config).eval()
    weights = Weights.allocate(read_module(model), device=torch.device("cpu"), dtype=torch.float32)
    weights.fill(model.state_dict(), where="test")
    return model, Network(weights, slots=6, max_tokens=3 * KEY_BLOCK)


@pytest.mark.parametrize(
    ("heads", "kv_heads", "head_dim", "hidden", "tied"),
    [
        (4, 2, 32, 128, True),
        (4, 4, 16, 64, True),
        (7, 1, 8, 48, False),
        (8, 2, 64, 96, False),
        (1, 1, 32, 32, True),
    ],
)
def test_any_cut_of_a_context_gives_the_same_bits_and_the_reference_logits(
    heads: int, kv_heads: int, head_dim: int, hidden: int, tied: bool
) -> None:
    model, network = build(heads, kv_heads, head_dim, hidden, tied=tied)
    source = random.Random(heads)
    ids = [source.randrange(320) for _ in range(2 * KEY_BLOCK + 9)]
    whole, _ = network.forward([Piece(0, 0, ids)])
    with torch.inference_mode():
        expected = model(torch.tensor([ids])).logits[0]
    assert torch.allclose(network.logits(whole, range(len(ids)))[: len(ids)], expected, atol=1e-4, rtol=0)
    # The same context in slot 3, cut anywhere, among others that do other things.
    start = 0
    while start < len(ids):
        count = min(source.choice([1, 1, 1, 2, 3, 17, 60]), len(ids) - start)
        others = [Piece(slot, 0, ids[: source.choice([1, 5, 40])]) for slot in source.sample([1, 2, 4, 5], 2)]
        hidden_PH, first_rows = network.forward(
            [others[0], Piece(3, start, ids[start : start + count]), others[1]]
        )
        rows = slice(first_rows[1], first_rows[1] + count)
        assert torch.equal(hidden_PH[rows], whole[start : start + count]), (start, count)
        start += count


def test_a_copied_prefix_is_as_good_as_a_computed_one() -> None:
    _, network = build(4, 2, 32, 64, tied=True)
    ids = list(range(50))
    whole, _ = network.forward([Piece(1, 0, ids)])
    network.copy(1, 4, 30)
    rest, _ = network.forward([Piece(4, 30, ids[30:])])
    assert torch.equal(rest[:20], whole[30:50])
