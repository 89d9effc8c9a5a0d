"""Which parameter goes to which optimiser, the schedule, and clipping."""

from __future__ import annotations

import math

import pytest
import torch
from transformers import Qwen3ForCausalLM

from agentrl.errors import ConfigError
from agentrl.train.optimizer import LearningRate, build_optimizer


def test_every_parameter_is_trained_once(tiny: Qwen3ForCausalLM) -> None:
    expected = sorted(id(parameter) for parameter in tiny.parameters())
    for kind in ("muon", "adamw"):
        optimizer = build_optimizer(tiny, kind)  # type: ignore[arg-type]
        assert sorted(id(parameter) for parameter in optimizer.parameters) == expected


def test_muon_takes_hidden_matrices_and_only_matrices_decay(tiny: Qwen3ForCausalLM) -> None:
    names = {id(parameter): name for name, parameter in tiny.named_parameters()}
    state = build_optimizer(tiny, "muon", 0.02, weight_decay=0.1)
    muon, adamw = state._parts  # pyright: ignore[reportPrivateUsage]
    hidden = {names[id(p)] for group in muon.param_groups for p in group["params"]}
    assert hidden == {name for name in names.values() if "proj" in name}
    matrices, vectors = adamw.param_groups
    assert [names[id(p)] for p in matrices["params"]] == ["model.embed_tokens.weight"]
    assert (matrices["weight_decay"], vectors["weight_decay"]) == (0.1, 0.0)
    assert all("norm" in names[id(p)] for p in vectors["params"])
    assert matrices["lr"] == pytest.approx(3e-3)


def test_schedules_by_hand() -> None:
    constant = LearningRate("constant", warmup_steps=3)
    assert [constant.factor(step) for step in range(5)] == [0.25, 0.5, 0.75, 1.0, 1.0]
    linear = LearningRate("linear", total_steps=10)
    assert [linear.factor(step) for step in (0, 5, 10, 20)] == pytest.approx([1.0, 0.525, 0.05, 0.05])
    assert linear.factor(0, progress=0.5) == pytest.approx(0.525)
    with pytest.raises(ConfigError, match="constant or linear"):
        LearningRate("cosine")  # type: ignore[arg-type]


def test_the_norm_is_reported_and_clipped(tiny: Qwen3ForCausalLM) -> None:
    optimizer = build_optimizer(tiny, "adamw", 0.0, grad_clip=1e9)
    for parameter in tiny.parameters():
        parameter.grad = torch.ones_like(parameter)
    assert optimizer.step() == pytest.approx(math.sqrt(sum(p.numel() for p in tiny.parameters())), rel=1e-5)
    assert all(parameter.grad is None for parameter in tiny.parameters())
    with pytest.raises(ConfigError, match="muon or adamw"):
        build_optimizer(tiny, "sgd")  # type: ignore[arg-type]
