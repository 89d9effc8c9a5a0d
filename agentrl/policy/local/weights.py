"""Weights of a Qwen3 model, fused for inference and refillable in place.

Read from a checkpoint folder (config.json and safetensors, without importing transformers) or from the
trainer's live module. Query, key and value projections are one matrix, gate and up projections another,
and the attention scale is folded into the query norm.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import safetensors.torch
import torch
from torch import Tensor

from agentrl.errors import CheckpointError, boundary

__all__ = ["Architecture", "Layer", "Weights", "read_checkpoint", "read_module"]

EXPECTED = "Qwen3ForCausalLM"
WRAPPER = "_orig_mod."  # what torch.compile puts before every name


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes of a Qwen3 model."""

    vocab: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope_theta: float
    max_position: int
    tied: bool

    @classmethod
    def from_config(cls, config: Mapping[str, Any], *, where: str) -> Architecture:
        """Read a Hugging Face config.

        Raises:
            CheckpointError: it is not of a plain Qwen3 (the user's: names what was found).
        """
        _check_supported(config, where)
        rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
        try:
            heads, hidden = int(config["num_attention_heads"]), int(config["hidden_size"])
            arch = cls(
                vocab=int(config["vocab_size"]),
                hidden=hidden,
                layers=int(config["num_hidden_layers"]),
                heads=heads,
                kv_heads=int(config.get("num_key_value_heads") or heads),
                head_dim=int(config.get("head_dim") or hidden // heads),
                ffn=int(config["intermediate_size"]),
                norm_eps=float(config.get("rms_norm_eps", 1e-6)),
                rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
                max_position=int(config.get("max_position_embeddings", 32_768)),
                tied=bool(config.get("tie_word_embeddings", False)),
            )
        except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
            raise CheckpointError(
                "checkpoint.config", f"the config of {where} is incomplete: {error!r}", {"where": where}
            ) from None
        sizes = (arch.vocab, arch.hidden, arch.layers, arch.heads, arch.kv_heads, arch.head_dim, arch.ffn)
        if min(sizes) < 1 or arch.heads % arch.kv_heads or arch.head_dim % 2:
            raise CheckpointError(
                "checkpoint.config", f"the config of {where} has sizes that no Qwen3 can have: {arch}"
            )
        return arch

    @property
    def group(self) -> int:
        """Query heads that share one key and value head."""
        return self.heads // self.kv_heads


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Matrices are `[out, in]`; `qk_norm` is `[heads + kv_heads, head_dim]`."""

    input_norm: Tensor
    qkv: Tensor
    qk_norm: Tensor
    out: Tensor
    post_norm: Tensor
    gate_up: Tensor
    down: Tensor


@dataclass(frozen=True, slots=True)
class Weights:
    """Every weight of a model, on one device in one dtype."""

    arch: Architecture
    embedding: Tensor
    layers: tuple[Layer, ...]
    norm: Tensor
    head: Tensor

    @classmethod
    def allocate(cls, arch: Architecture, *, device: torch.device, dtype: torch.dtype) -> Weights:
        """Return uninitialised weights of the right shapes."""

        def empty(*shape: int) -> Tensor:
            return torch.empty(*shape, device=device, dtype=dtype)

        q_and_k = arch.heads + arch.kv_heads
        layers = tuple(
            Layer(
                input_norm=empty(arch.hidden),
                qkv=empty((q_and_k + arch.kv_heads) * arch.head_dim, arch.hidden),
                qk_norm=empty(q_and_k, arch.head_dim),
                out=empty(arch.hidden, arch.heads * arch.head_dim),
                post_norm=empty(arch.hidden),
                gate_up=empty(2 * arch.ffn, arch.hidden),
                down=empty(arch.hidden, arch.ffn),
            )
            for _ in range(arch.layers)
        )
        embedding = empty(arch.vocab, arch.hidden)
        head = embedding if arch.tied else empty(arch.vocab, arch.hidden)
        return cls(arch, embedding, layers, empty(arch.hidden), head)

    def fill(self, source: Mapping[str, Tensor], *, where: str) -> None:
        """Copy every weight from tensors under Hugging Face's names; nothing changes if one does not fit.

        Raises:
            CheckpointError: a tensor is missing, unexpected or of another shape (it names the first).
        """
        named = {name.removeprefix(WRAPPER): tensor for name, tensor in source.items()}
        targets = dict(self._targets())
        _check_fit(named, {name: tuple(target.shape) for name, target in targets.items()}, self.arch, where)
        with torch.no_grad():
            for name, target in targets.items():
                target.copy_(_whole(named[name]))
            for layer in self.layers:
                layer.qk_norm[: self.arch.heads].mul_(self.arch.head_dim**-0.5)

    def _targets(self) -> Iterator[tuple[str, Tensor]]:
        """Yield (Hugging Face's name, the view of ours that holds it)."""
        arch = self.arch
        q_rows, kv_rows = arch.heads * arch.head_dim, arch.kv_heads * arch.head_dim
        yield "model.embed_tokens.weight", self.embedding
        yield "model.norm.weight", self.norm
        if not arch.tied:
            yield "lm_head.weight", self.head
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}"
            yield f"{prefix}.input_layernorm.weight", layer.input_norm
            yield f"{prefix}.post_attention_layernorm.weight", layer.post_norm
            yield f"{prefix}.self_attn.q_proj.weight", layer.qkv[:q_rows]
            yield f"{prefix}.self_attn.k_proj.weight", layer.qkv[q_rows : q_rows + kv_rows]
            yield f"{prefix}.self_attn.v_proj.weight", layer.qkv[q_rows + kv_rows :]
            yield f"{prefix}.self_attn.o_proj.weight", layer.out
            # A view of one head's row broadcasts on `copy_`, so its shape is Hugging Face's own.
            yield f"{prefix}.self_attn.q_norm.weight", layer.qk_norm[: arch.heads]
            yield f"{prefix}.self_attn.k_norm.weight", layer.qk_norm[arch.heads :]
            yield f"{prefix}.mlp.gate_proj.weight", layer.gate_up[: arch.ffn]
            yield f"{prefix}.mlp.up_proj.weight", layer.gate_up[arch.ffn :]
            yield f"{prefix}.mlp.down_proj.weight", layer.down


def read_checkpoint(folder: str | Path) -> tuple[Architecture, dict[str, Tensor]]:
    """Read a `save_pretrained` folder: its architecture and its tensors by name, on the CPU.

    Raises:
        CheckpointError: there is no model, it is no Qwen3, or a file is damaged.
    """
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise CheckpointError(
            "checkpoint.not_found", f"there is no model in {path} (no config.json)", {"path": str(path)}
        )
    with boundary(
        CheckpointError, "checkpoint.unreadable", f"reading {path / 'config.json'}", path=str(path)
    ):
        config: Any = json.loads((path / "config.json").read_text(encoding="utf-8"))
    arch = Architecture.from_config(
        cast("dict[str, Any]", config) if isinstance(config, dict) else {}, where=str(path)
    )
    tensors: dict[str, Tensor] = {}
    for file in _weight_files(path):
        with boundary(CheckpointError, "checkpoint.unreadable", f"reading {file}", path=str(file)):
            tensors.update(_read_tensors(file))
    return arch, tensors


def read_module(module: torch.nn.Module) -> Architecture:
    """Return the architecture of a live Hugging Face model.

    Raises:
        CheckpointError: the module is no Qwen3.
    """
    config: Any = getattr(module, "config", None)
    described: dict[str, Any] = {} if config is None else config.to_dict()
    # A model that was never saved has no `architectures` yet: its class says the same.
    described["architectures"] = described.get("architectures") or [type(module).__name__]
    return Architecture.from_config(described, where="the module given")


def _check_supported(config: Mapping[str, Any], where: str) -> None:
    found: Any = config.get("architectures") or config.get("model_type")
    names = cast("list[str]", found) if isinstance(found, list) else [found]
    if names != [EXPECTED]:
        raise CheckpointError(
            "checkpoint.architecture",
            f"expected {EXPECTED}, got {', '.join(map(str, names))} in {where}",
            {"where": where, "architectures": names},
        )
    rope: Mapping[str, Any] = config.get("rope_parameters") or config.get("rope_scaling") or {}
    rope_type = rope.get("rope_type") or rope.get("type") or "default"
    wrong = {
        "attention_bias": bool(config.get("attention_bias")),
        "hidden_act": config.get("hidden_act", "silu") != "silu",
        "use_sliding_window": bool(config.get("use_sliding_window")),
        "rope_type": rope_type != "default",
        "quantization_config": bool(config.get("quantization_config")),
    }
    for key, unsupported in wrong.items():
        if unsupported:
            value = rope_type if key == "rope_type" else config.get(key)
            raise CheckpointError(
                "checkpoint.unsupported",
                f"the embedded engine runs plain {EXPECTED}, but {where} has {key} = {value!r}: use vLLM",
                {"where": where, "key": key},
            )


def _read_tensors(file: Path) -> dict[str, Tensor]:
    untyped: Any = safetensors.torch
    return untyped.load_file(file)


def _weight_files(path: Path) -> list[Path]:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        with boundary(CheckpointError, "checkpoint.unreadable", f"reading {index}", path=str(index)):
            weight_map: dict[str, str] = json.loads(index.read_text(encoding="utf-8"))["weight_map"]
        # Only the last part: an index must not lead out of its folder.
        return [path / Path(name).name for name in sorted(set(weight_map.values()))]
    if not (path / "model.safetensors").is_file():
        raise CheckpointError(
            "checkpoint.not_found",
            f"there are no weights in {path} (no model.safetensors)",
            {"path": str(path)},
        )
    return [path / "model.safetensors"]


def _check_fit(
    named: Mapping[str, Tensor], shapes: Mapping[str, tuple[int, ...]], arch: Architecture, where: str
) -> None:
    norms = (".q_norm.weight", ".k_norm.weight")
    ignored = {"lm_head.weight"} if arch.tied else set[str]()
    problems = [
        *(f"{name} is missing" for name in shapes if name not in named),
        *(f"{name} is not part of a Qwen3" for name in named if name not in shapes and name not in ignored),
    ]
    for name, shape in shapes.items():
        expected = (arch.head_dim,) if name.endswith(norms) else shape
        if name in named and tuple(named[name].shape) != expected:
            problems.append(f"{name} has shape {list(named[name].shape)}, expected {list(expected)}")
    if problems:
        raise CheckpointError(
            "checkpoint.weights",
            f"the weights of {where} do not fit its config ({len(problems)} problems): {problems[0]}",
            {"where": where, "problems": problems[:20]},
        )


def _whole(tensor: Tensor) -> Tensor:
    # A sharded (FSDP) parameter is a DTensor: gather it.
    gather = getattr(tensor, "full_tensor", None)
    return tensor.detach() if gather is None else cast("Tensor", gather()).detach()
