"""Models are written and read in Hugging Face's layout; what cannot be loaded is one clear line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import Qwen3ForCausalLM

from agentrl.errors import CheckpointError, ConfigError
from agentrl.train.model import ModelShape, load_model, new_model, save_model


def test_the_default_shape_is_the_documented_one() -> None:
    model = new_model(ModelShape(), 1000)
    assert model.config.vocab_size == 1024
    assert sum(parameter.numel() for parameter in model.parameters()) == 918_912


def test_a_new_model_depends_on_its_seed_alone(tiny: Qwen3ForCausalLM) -> None:
    shape = ModelShape(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=32)
    state = torch.get_rng_state()
    one, same, other = (new_model(shape, 10, seed=seed).state_dict() for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not torch.equal(one["model.embed_tokens.weight"], other["model.embed_tokens.weight"])


@pytest.mark.parametrize("dtype", [None, torch.bfloat16])
def test_models_round_trip(tiny: Qwen3ForCausalLM, tmp_path: Path, dtype: torch.dtype | None) -> None:
    save_model(tiny, None, tmp_path / "m", dtype=dtype)
    save_model(tiny, None, tmp_path / "m", dtype=dtype)
    loaded = load_model(tmp_path / "m", dtype=dtype or torch.float32)
    for parameter, expected in zip(loaded.parameters(), tiny.parameters(), strict=True):
        assert torch.equal(parameter, expected.to(parameter.dtype))
    ids = torch.arange(10)[None]
    if dtype is None:
        assert torch.equal(loaded(input_ids=ids).logits, tiny(input_ids=ids).logits)
    config = json.loads((tmp_path / "m" / "config.json").read_text())
    assert config["dtype"] == str(dtype or torch.float32).removeprefix("torch.")
    assert "_attn_implementation" not in config
    assert [path.name for path in tmp_path.iterdir()] == ["m"]


def test_a_padded_batch_still_works(tiny: Qwen3ForCausalLM) -> None:
    """The packed attention must not swallow a mask when it is called without packing."""
    ids = torch.tensor([[0, 0, 5, 6, 7]])
    mask = torch.tensor([[0, 0, 1, 1, 1]])
    positions = torch.tensor([[0, 0, 0, 1, 2]])
    padded = tiny(input_ids=ids, attention_mask=mask, position_ids=positions).logits[0, 2:]
    torch.testing.assert_close(padded, tiny(input_ids=ids[:, 2:]).logits[0], rtol=0, atol=1e-5)


def test_what_cannot_be_loaded_is_named(tiny: Qwen3ForCausalLM, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        load_model(tmp_path)
    folder = tmp_path / "m"
    save_model(tiny, None, folder)
    weights = (folder / "model.safetensors").read_bytes()
    config = (folder / "config.json").read_text()
    for damaged in (b"", weights[:100], weights[:-100]):
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="loading the model in"):
            load_model(folder)
    (folder / "model.safetensors").write_bytes(weights)
    for changed, problem in (
        (config.replace("Qwen3ForCausalLM", "LlamaForCausalLM"), "trains Qwen3ForCausalLM only"),
        (
            config.replace('"intermediate_size": 64', '"intermediate_size": 96'),
            "weights of the model .* mismatched",
        ),
        (config[:50], "cannot read"),
        ("[]", "trains Qwen3ForCausalLM only"),
    ):
        (folder / "config.json").write_text(changed)
        with pytest.raises(CheckpointError, match=problem):
            load_model(folder)


def test_impossible_shapes_are_refused() -> None:
    with pytest.raises(ConfigError, match="multiple of kv_heads"):
        ModelShape(heads=4, kv_heads=3)
