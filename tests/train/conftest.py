"""What the training tests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from train_fakes import VOCAB
from transformers import Qwen3ForCausalLM

from agentrl.train.model import ModelShape, new_model


@pytest.fixture(autouse=True)
def two_threads() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def tiny() -> Qwen3ForCausalLM:
    """A model of two small layers whose outputs are far from uniform."""
    shape = ModelShape(hidden=32, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=64, max_position=512)
    model = new_model(shape, VOCAB, seed=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(6)
    return model
