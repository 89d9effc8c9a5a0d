"""A resumed run is bitwise the run that was never stopped; a bad checkpoint is one clear line."""

from __future__ import annotations

import copy
import errno
import json
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from train_fakes import episode
from transformers import Qwen3ForCausalLM

from agentrl.errors import CheckpointError
from agentrl.train import checkpoint
from agentrl.train.checkpoint import TrainerState, latest_checkpoint, load_checkpoint, save_checkpoint
from agentrl.train.model import ModelShape, load_model, new_model
from agentrl.train.optimizer import LearningRate, Optimizer, build_optimizer
from agentrl.train.rows import Row, sequence_rows
from agentrl.train.update import UpdateSettings, update

SETTINGS = UpdateSettings(epochs=2, minibatches=2)


def make_optimizer(model: Qwen3ForCausalLM, kind: Any = "muon") -> Optimizer:
    return build_optimizer(model, kind, 1e-2, rate=LearningRate("linear", warmup_steps=3, total_steps=20))


def run_step(model: Qwen3ForCausalLM, optimizer: Optimizer, generators: dict[str, Any], step: int) -> None:
    draws = generators["python"].random() + generators["numpy"].random() + float(torch.rand(1))
    draws += float(torch.rand(1, generator=generators["torch"]))
    rows: list[Row] = sequence_rows(episode(step), {"credit": [draws, -draws, 1.0]})
    update(model, optimizer, rows, SETTINGS, step=step)


def fresh_generators(seed: int) -> dict[str, Any]:
    return {
        "python": random.Random(seed),
        "numpy": np.random.default_rng(seed),
        "torch": torch.Generator().manual_seed(seed),
    }


@pytest.mark.parametrize("kind", ["muon", "adamw"])
def test_a_resumed_run_continues_bitwise(tiny: Qwen3ForCausalLM, tmp_path: Path, kind: str) -> None:
    untouched = copy.deepcopy(tiny)
    model, optimizer, generators = tiny, make_optimizer(tiny, kind), fresh_generators(1)
    torch.manual_seed(7)
    for step in range(2):
        run_step(model, optimizer, generators, step)
    state = TrainerState(2, policy_version=2, store_position=9, credit_memory={"t": {"min": 0.1}})
    saved = save_checkpoint(tmp_path, state, model=model, optimizer=optimizer, generators=generators)
    for step in (2, 3):
        run_step(model, optimizer, generators, step)
    expected = {name: value.clone() for name, value in model.state_dict().items()}

    resumed, resumed_optimizer, resumed_generators = (
        untouched,
        make_optimizer(untouched, kind),
        fresh_generators(5),
    )
    assert latest_checkpoint(tmp_path) == saved
    restored = load_checkpoint(
        saved, model=resumed, optimizer=resumed_optimizer, generators=resumed_generators
    )
    assert restored == state
    for step in (2, 3):
        run_step(resumed, resumed_optimizer, resumed_generators, step)
    assert all(torch.equal(expected[name], value) for name, value in resumed.state_dict().items())
    assert resumed_optimizer.lr == optimizer.lr


def test_a_checkpoint_is_a_model_directory(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    saved = save_checkpoint(
        tmp_path / "run", TrainerState(1), model=tiny, optimizer=make_optimizer(tiny), tokenizer_dir=tmp_path
    )
    loaded = load_model(saved / "policy")
    assert all(torch.equal(a, b) for a, b in zip(tiny.parameters(), loaded.parameters(), strict=True))
    assert (saved / "policy" / "tokenizer.json").exists()
    assert not list(saved.rglob("*.pt")) + list(saved.rglob("*.bin")) + list(saved.rglob("*.pkl"))


def test_only_the_newest_are_kept(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    optimizer = make_optimizer(tiny)
    for step in (1, 2, 3, 3):
        save_checkpoint(tmp_path, TrainerState(step), model=tiny, optimizer=optimizer, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000002", "step_00000003"]


@pytest.mark.parametrize(
    ("file", "problem"),
    [
        ("policy/model.safetensors", "is damaged"),
        ("optimizer.safetensors", "is damaged"),
        ("state.json", "is damaged"),
    ],
)
def test_damage_is_found_before_anything_changes(
    tiny: Qwen3ForCausalLM, tmp_path: Path, file: str, problem: str
) -> None:
    optimizer = make_optimizer(tiny)
    saved = save_checkpoint(tmp_path, TrainerState(1), model=tiny, optimizer=optimizer)
    content = bytearray((saved / file).read_bytes())
    content[len(content) // 2] ^= 1
    (saved / file).write_bytes(bytes(content))
    with torch.no_grad():
        tiny.model.norm.weight.fill_(3.0)
    with pytest.raises(CheckpointError, match=problem):
        load_checkpoint(saved, model=tiny, optimizer=optimizer)
    assert set(tiny.model.norm.weight.tolist()) == {3.0}
    (saved / file).unlink()
    with pytest.raises(CheckpointError, match="is incomplete"):
        load_checkpoint(saved, model=tiny, optimizer=optimizer)


def test_what_does_not_fit_is_named(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, TrainerState(1), model=tiny, optimizer=make_optimizer(tiny))
    other = new_model(ModelShape(hidden=64, layers=2, heads=4, kv_heads=2, head_dim=8, ffn=64), 100)
    with pytest.raises(CheckpointError, match=r"embed_tokens.*expected \(128, 64\)"):
        load_checkpoint(saved, model=other, optimizer=make_optimizer(other))
    with pytest.raises(CheckpointError, match="has 2 parts, this one 1"):
        load_checkpoint(saved, model=tiny, optimizer=make_optimizer(tiny, "adamw"))
    with pytest.raises(CheckpointError, match="no generator shuffle"):
        load_checkpoint(
            saved, model=tiny, optimizer=make_optimizer(tiny), generators={"shuffle": random.Random(0)}
        )
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_checkpoint(tmp_path / "nothing", model=tiny, optimizer=make_optimizer(tiny))
    (tmp_path / "latest").write_text("../../etc")
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        latest_checkpoint(tmp_path)


def test_a_full_disk_leaves_the_previous_checkpoint(
    tiny: Qwen3ForCausalLM, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    optimizer = make_optimizer(tiny)
    first = save_checkpoint(tmp_path, TrainerState(1), model=tiny, optimizer=optimizer)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "_flush", full)
    with pytest.raises(CheckpointError, match="the disk is full") as failure:
        save_checkpoint(tmp_path, TrainerState(2), model=tiny, optimizer=optimizer)
    assert failure.value.code == "checkpoint.disk_full"
    monkeypatch.undo()
    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(CheckpointError, match="the disk is full"):
        save_checkpoint(tmp_path, TrainerState(1), model=tiny, optimizer=optimizer)
    assert latest_checkpoint(tmp_path) == first
    assert load_checkpoint(first, model=tiny, optimizer=optimizer).step == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "step_00000001"]


def test_state_is_plain_json(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    saved = save_checkpoint(tmp_path, TrainerState(4), model=tiny, optimizer=make_optimizer(tiny))
    assert json.loads((saved / "state.json").read_text())["step"] == 4
