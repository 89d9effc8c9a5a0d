"""Copying heads that are written down instead of learned."""

from __future__ import annotations

import math

import pytest
import torch

from agentrl.errors import ConfigError
from agentrl.train.induction import set_copying_heads
from agentrl.train.model import ModelShape, new_model
from agentrl.train.packing import collate, logprobs

VOCAB = 768


def copy_loss(*, written: bool) -> float:
    """Mean loss, in nats, on the second half of random rows that say everything twice."""
    model = new_model(ModelShape(rope_theta=1e6), VOCAB, seed=1)
    if written:
        set_copying_heads(model, seed=1)
    halves = torch.randint(0, VOCAB, (4, 60), generator=torch.Generator().manual_seed(0))
    rows = list(torch.cat([halves, halves], dim=1))
    repeated = torch.arange(120) > 60
    batch = collate(rows, [repeated] * 4, torch.device("cpu"))
    with torch.no_grad():
        return float(-logprobs(model, batch).logprobs_N.mean())


def test_a_new_model_copies_before_any_training() -> None:
    assert copy_loss(written=False) > 0.95 * math.log(VOCAB)
    assert copy_loss(written=True) < 0.6 * math.log(VOCAB)


def test_a_model_without_room_is_refused() -> None:
    narrow = new_model(ModelShape(hidden=64), VOCAB)
    with pytest.raises(ConfigError, match="hidden size of 128"):
        set_copying_heads(narrow, seed=0)
