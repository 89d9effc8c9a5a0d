from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from agentrl.policy.local.sampling import Draw, draw, uniform


@given(st.integers(0, 2**70), st.integers(0, 2**20))
def test_uniform_is_a_function_into_the_half_open_interval(seed: int, position: int) -> None:
    u = uniform(seed, position)
    assert 0.0 <= u < 1.0
    assert u == uniform(seed, position)


def test_uniform_is_uniform_and_positions_are_independent() -> None:
    values = torch.tensor([[uniform(seed, position) for position in range(64)] for seed in range(512)])
    histogram = torch.histc(values, bins=16, min=0, max=1)
    chi_square = ((histogram - 2048) ** 2 / 2048).sum().item()
    assert chi_square < 37.7  # 0.1 % for 15 degrees of freedom
    neighbours = torch.corrcoef(torch.stack((values[:, :-1].flatten(), values[:, 1:].flatten())))[0, 1]
    assert abs(neighbours.item()) < 0.02


@pytest.mark.parametrize(
    ("temperature", "top_p"), [(1.0, 1.0), (0.5, 1.0), (2.0, 1.0), (1.0, 0.8), (0.7, 0.5)]
)
def test_frequencies_are_those_of_the_distribution(temperature: float, top_p: float) -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0, -3.0])
    p = torch.softmax(logits / temperature, -1)
    kept = torch.tensor([p[:i].sum().item() < top_p for i in range(5)])
    expected = p * kept / (p * kept).sum()
    count = 20_000
    draws = [Draw(temperature, top_p, uniform(1, i)) for i in range(count)]
    drawn = draw(logits.expand(count, 5).contiguous(), draws)
    observed = torch.bincount(torch.tensor(drawn.token_ids), minlength=5) / count
    assert torch.allclose(observed, expected, atol=0.012)
    assert observed[~kept].sum() == 0


def test_logprob_and_entropy_are_those_before_temperature_and_top_p() -> None:
    logits = torch.tensor([[2.0, 1.0, 0.0]]).repeat(3, 1)
    drawn = draw(logits, [Draw(1.0, 1.0, 0.5), Draw(0.1, 0.5, 0.5), Draw(0.0, 1.0, 0.5)])
    p = torch.softmax(logits[0], -1)
    assert drawn.token_ids == [0, 0, 0]
    assert drawn.logprobs == pytest.approx([math.log(p[0])] * 3, abs=1e-6)
    assert drawn.entropies == pytest.approx([-(p * p.log()).sum().item()] * 3, abs=1e-6)


def test_impossible_tokens_are_never_drawn() -> None:
    logits = torch.full((2, 4), -1e9)
    logits[:, 2] = 0.0
    assert draw(logits, [Draw(1.0, 1.0, 0.0), Draw(1.0, 1.0, 1 - 2.0**-40)]).token_ids == [2, 2]


def test_rows_do_not_depend_on_their_neighbours() -> None:
    logits = torch.randn(40, 1024, generator=torch.Generator().manual_seed(3)) * 3
    draws = [Draw((0.0, 0.7, 1.0)[i % 3], (1.0, 0.9)[i % 2], uniform(9, i)) for i in range(40)]
    together = draw(logits, draws)
    for i in range(40):
        alone = draw(logits[[i] * 16], [draws[i]])
        assert alone.token_ids[0] == together.token_ids[i]
        assert alone.logprobs[0] == together.logprobs[i]
        assert alone.entropies[0] == together.entropies[i]
