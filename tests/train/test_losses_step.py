"""Every policy loss, with options from a config, takes a real optimiser step on a small model."""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from train_fakes import VOCAB, episode
from transformers import Qwen3ForCausalLM

from agentrl import registry
from agentrl.config import load_config
from agentrl.loss import AGGREGATIONS
from agentrl.train.optimizer import build_optimizer
from agentrl.train.rows import Row, sequence_rows
from agentrl.train.update import UpdateSettings, update

# What a config of this loss may say; absent ones run on their defaults.
OPTIONS: dict[str, dict[str, Any]] = {
    "ppo": {"clip_low": 0.1, "clip_high": 0.3, "dual_clip": 4.0},
    "bapo": {"variant": "paper", "target": 0.4, "high_max": 3.0, "low_max": 0.9, "low_step": 0.02},
    "clip_cov": {"ratio": 0.1, "lb": 0.01},
    "kl_cov": {"ratio": 0.1},
    "dppo_tv": {"tv_threshold_low": 0.2},
    "drpo": {"max_length": 32},
}


def rows_of() -> list[Row]:
    rows: list[Row] = []
    for seed in range(4):
        played = replace(episode(seed, 1 + seed % 2), group_id=f"task{seed // 2}")
        advantages = {"outcome": [1.0 - 2.0 * (seed % 2)] * len(played.turns)}
        rows += sequence_rows(played, advantages, vocab_size=VOCAB)
    return rows


def settings_of(tmp_path: Path, name: str, aggregation: str = "seq-mean-token-mean") -> UpdateSettings:
    overrides = [f"loss.options.{key}={value!r}" for key, value in OPTIONS.get(name, {}).items()]
    file = tmp_path / "run.toml"
    file.write_text(f'[env]\nid = "alfworld"\n[loss]\nname = "{name}"\naggregation = "{aggregation}"\n')
    loss = load_config(file, overrides).loss
    assert loss.options == OPTIONS.get(name, {})
    return UpdateSettings(
        loss=loss.name, loss_options=loss.options, aggregation=loss.aggregation, autocast=False
    )


@pytest.mark.parametrize("name", registry.names("loss"))
def test_every_loss_takes_a_step(tiny: Qwen3ForCausalLM, tmp_path: Path, name: str) -> None:
    before = copy.deepcopy(tiny.state_dict())
    optimizer = build_optimizer(tiny, "adamw", 1e-3)
    # Made-up sampler log-probs are far off policy; a second epoch on recomputed ones is not.
    settings = replace(settings_of(tmp_path, name), old_logprobs="recompute", epochs=2)
    metrics = update(tiny, optimizer, rows_of(), settings)
    assert optimizer.steps == 2
    assert metrics["actor/skipped_steps"] == 0
    assert metrics["actor/grad_norm"] > 0
    assert all(math.isfinite(value) for value in metrics.values())
    after = tiny.state_dict()
    assert any(not torch.equal(before[key], value) for key, value in after.items())
    assert all(value.isfinite().all() for value in after.values())


@pytest.mark.parametrize("aggregation", AGGREGATIONS)
def test_every_aggregation_can_be_named_in_a_config(
    tiny: Qwen3ForCausalLM, tmp_path: Path, aggregation: str
) -> None:
    optimizer = build_optimizer(tiny, "adamw", 1e-3)
    metrics = update(tiny, optimizer, rows_of(), settings_of(tmp_path, "ppo", aggregation))
    assert optimizer.steps == 1
    assert metrics["actor/grad_norm"] > 0


def test_a_loss_that_compares_rows_of_a_task_gets_them_whole(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    """However small the micro-batches and however rows are shuffled into minibatches."""
    settings = settings_of(tmp_path, "drpo")
    values: list[float] = []
    for tokens in (1, 10_000):
        trained = copy.deepcopy(tiny)
        cut = replace(settings, microbatch_tokens=tokens, old_logprobs="recompute")
        rows = rows_of()
        metrics = update(trained, build_optimizer(trained, "adamw", 1e-3), rows[::2] + rows[1::2], cut)
        values.append(metrics["actor/grad_norm"])
    assert values[0] == pytest.approx(values[1], rel=1e-4)
