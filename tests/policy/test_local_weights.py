from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel, Qwen3ForCausalLM

from agentrl.errors import CheckpointError
from agentrl.policy.local import LocalPolicy
from agentrl.policy.local.weights import Weights, read_checkpoint, read_module


@pytest.fixture
def saved(tiny_model: Qwen3ForCausalLM, tmp_path: Path) -> Path:
    tiny_model.save_pretrained(tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: Any) -> None:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_a_saved_folder_and_the_live_module_give_the_same_weights(
    tiny_model: Qwen3ForCausalLM, saved: Path
) -> None:
    arch, tensors = read_checkpoint(saved)
    assert arch == read_module(tiny_model)
    filled: list[Weights] = []
    for source in (tensors, tiny_model.state_dict()):
        weights = Weights.allocate(arch, device=torch.device("cpu"), dtype=torch.float32)
        weights.fill(source, where="test")
        filled.append(weights)
    for ours, theirs in zip(filled[0].layers, filled[1].layers, strict=True):
        assert all(torch.equal(getattr(ours, name), getattr(theirs, name)) for name in ours.__slots__)
    assert torch.equal(filled[0].head, tiny_model.lm_head.weight)


def test_sharded_checkpoints_are_read(tiny_model: Qwen3ForCausalLM, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path, max_shard_size="1MB")
    assert not (tmp_path / "model.safetensors").exists()
    _, tensors = read_checkpoint(tmp_path)
    assert torch.equal(tensors["model.norm.weight"], tiny_model.model.norm.weight)


def test_loading_a_folder_imports_no_transformers(saved: Path) -> None:
    program = (
        "import sys; from agentrl.policy.local import LocalPolicy; "
        f"LocalPolicy({str(saved)!r}, slots=1); print('transformers' in sys.modules)"
    )
    root = Path(__file__).parents[2]
    printed = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=root
    )
    assert printed.stdout.strip() == "False"


def test_another_architecture_is_named(tmp_path: Path) -> None:
    other = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=1, vocab_size=16, n_positions=8))
    with pytest.raises(CheckpointError, match="expected Qwen3ForCausalLM, got GPT2LMHeadModel"):
        LocalPolicy(other)
    other.save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match="expected Qwen3ForCausalLM, got GPT2LMHeadModel"):
        LocalPolicy(tmp_path)


@pytest.mark.parametrize(
    "changes",
    [
        {"attention_bias": True},
        {"hidden_act": "gelu"},
        {"use_sliding_window": True},
        {"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}},
        {"quantization_config": {"quant_method": "awq"}},
    ],
)
def test_variants_that_would_compute_wrongly_are_refused(saved: Path, changes: dict[str, Any]) -> None:
    edit_config(saved, **changes)
    with pytest.raises(CheckpointError, match=next(iter(changes)).replace("rope_parameters", "rope_type")):
        LocalPolicy(saved)


@pytest.mark.parametrize("changes", [{"hidden_size": None}, {"num_key_value_heads": 3}, {"head_dim": 31}])
def test_impossible_sizes_are_refused(saved: Path, changes: dict[str, Any]) -> None:
    edit_config(saved, **changes)
    with pytest.raises(CheckpointError, match="config"):
        LocalPolicy(saved)


def test_absent_and_damaged_files_are_named(saved: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        LocalPolicy(saved / "nowhere")
    weights = saved / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match=r"model\.safetensors"):
        LocalPolicy(saved)
    weights.unlink()
    with pytest.raises(CheckpointError, match=r"no model\.safetensors"):
        LocalPolicy(saved)
    (saved / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json"):
        LocalPolicy(saved)


def test_missing_misshapen_and_foreign_tensors_are_named(saved: Path) -> None:
    original = load_file(saved / "model.safetensors")
    key = "model.layers.2.self_attn.k_proj.weight"
    for tensors, message in (
        ({k: v for k, v in original.items() if k != key}, f"{key} is missing"),
        (original | {key: torch.zeros(3, 3)}, r"has shape \[3, 3\], expected \[64, 128\]"),
        (original | {"model.layers.0.self_attn.q_proj.bias": torch.zeros(3)}, "not part of a Qwen3"),
    ):
        save_file(tensors, saved / "model.safetensors")
        with pytest.raises(CheckpointError, match=message):
            LocalPolicy(saved)
