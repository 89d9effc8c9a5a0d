"""New, loaded and saved models: Qwen3 in Hugging Face's `save_pretrained` layout, and nothing else.

The layout (config.json, model.safetensors, tokenizer files) is what vLLM and transformers load, so a
checkpoint of ours needs no conversion anywhere.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging as transformers_logging

from agentrl.errors import CheckpointError, ConfigError, boundary
from agentrl.train.attention import PACKED

__all__ = ["ModelShape", "copy_tokenizer", "load_model", "new_model", "pick_device", "save_model"]

VOCAB_MULTIPLE = 64
ARCHITECTURE = "Qwen3ForCausalLM"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Shape of a new model; the default has 0.86 M parameters with a vocabulary of 1024."""

    hidden: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    ffn: int = 384
    tied_embeddings: bool = True
    max_position: int = 8192
    rope_theta: float = 10_000.0

    def __post_init__(self) -> None:
        """Refuse shapes that no Qwen3 can have."""
        if self.heads % self.kv_heads:
            raise ConfigError(
                "model.shape", f"heads ({self.heads}) must be a multiple of kv_heads ({self.kv_heads})"
            )
        if self.head_dim % 2:
            raise ConfigError("model.shape", f"head_dim must be even, got {self.head_dim}")


def pick_device(name: str) -> str:
    """Return "cpu" or "cuda" for a config's device, "auto" meaning CUDA where there is one.

    Raises:
        ConfigError: CUDA was asked for and there is none (the user's).
    """
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise ConfigError("policy.device", "device 'cuda' was asked for, but torch sees no CUDA device here")
    return "cuda" if available and name != "cpu" else "cpu"


def new_model(shape: ModelShape, vocab_size: int, *, seed: int = 0) -> Qwen3ForCausalLM:
    """Build a float32 model with random weights, a function of the shape, the vocabulary and the seed.

    The vocabulary is padded up to a multiple of 64: matrix kernels and tensor parallelism want it.
    """
    config = Qwen3Config(
        vocab_size=-(-vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE,
        hidden_size=shape.hidden,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        head_dim=shape.head_dim,
        intermediate_size=shape.ffn,
        tie_word_embeddings=shape.tied_embeddings,
        max_position_embeddings=shape.max_position,
        rope_parameters={"rope_type": "default", "rope_theta": shape.rope_theta},
        dtype="float32",
    )
    generator: Any = torch.random
    with generator.fork_rng(devices=[]):
        generator.manual_seed(seed)
        model = Qwen3ForCausalLM(config)
    model.set_attn_implementation(PACKED)
    return model.eval()


def load_model(
    model_dir: str | Path, *, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> Qwen3ForCausalLM:
    """Load a model that `save_model`, vLLM or transformers could have written.

    Raises:
        CheckpointError: there is no model, it is of another architecture, or its weights are damaged,
            missing or of other shapes (the user's: it names the directory and the first problem).
    """
    path = Path(model_dir)
    _check_architecture(path)
    load = cast("Callable[..., Any]", Qwen3ForCausalLM.from_pretrained)
    with (
        _quiet_transformers(),
        boundary(CheckpointError, "checkpoint.unreadable", f"loading the model in {path}", path=str(path)),
    ):
        model, report = load(
            path,
            dtype=dtype,
            attn_implementation=PACKED,
            local_files_only=True,
            # Found and reported below, in one line instead of a table.
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    problems = {key: sorted(map(str, report.get(key, ()))) for key in ("missing_keys", "mismatched_keys")}
    for problem, names in problems.items():
        if names:
            raise CheckpointError(
                "checkpoint.weights",
                f"{len(names)} weights of the model in {path} are {problem[:-5]}, first {names[0]}",
                {"path": str(path), **problems},
            )
    loaded: Qwen3ForCausalLM = model.to(device).eval()
    return loaded


def save_model(
    model: Qwen3ForCausalLM,
    tokenizer_dir: str | Path | None,
    out_dir: str | Path,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write config.json, model.safetensors and the tokenizer's files; `out_dir` appears whole or not at all.

    Args:
        tokenizer_dir: where the tokenizer's files are copied from; None writes weights alone.
        dtype: precision of the file (bfloat16 halves it); the model's own when absent.

    Raises:
        CheckpointError: the disk is full or not writable.
    """
    out = Path(out_dir)
    staging = out.with_name(f".{out.name}.tmp")
    with boundary(CheckpointError, "checkpoint.unwritable", f"saving the model to {out}", path=str(out)):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        try:
            _write(model, staging, dtype)
            if tokenizer_dir is not None:
                copy_tokenizer(tokenizer_dir, staging)
            shutil.rmtree(out, ignore_errors=True)
            staging.rename(out)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def copy_tokenizer(from_dir: str | Path, to_dir: str | Path) -> None:
    """Copy the tokenizer's files of a checkpoint folder into another folder."""
    for name in TOKENIZER_FILES:
        if (Path(from_dir) / name).is_file():
            shutil.copyfile(Path(from_dir) / name, Path(to_dir) / name)


def _write(model: Qwen3ForCausalLM, folder: Path, dtype: torch.dtype | None) -> None:
    weights: dict[str, torch.Tensor] = model.state_dict()
    if dtype is not None:
        # A cast would give tied weights two storages, and the file would hold both.
        tied = {"lm_head.weight"} if model.config.tie_word_embeddings else set[str]()
        weights = {name: tensor.to(dtype) for name, tensor in weights.items() if name not in tied}
    save = cast("Callable[..., None]", model.save_pretrained)
    with _quiet_transformers():
        save(folder, state_dict=weights)
    if dtype is not None:
        config_file = folder / "config.json"
        config: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
        config["dtype"] = str(dtype).removeprefix("torch.")
        config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@contextmanager
def _quiet_transformers() -> Generator[None, None, None]:
    verbosity: int = transformers_logging.get_verbosity()
    bars: bool = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        if bars:
            transformers_logging.enable_progress_bar()


def _check_architecture(path: Path) -> None:
    try:
        config: Any = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            "checkpoint.not_found", f"there is no model in {path} (no config.json)", {"path": str(path)}
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(
            "checkpoint.unreadable", f"cannot read {path / 'config.json'}: {error}", {"path": str(path)}
        ) from None
    found: Any = config.get("architectures") if isinstance(config, dict) else None  # pyright: ignore[reportUnknownMemberType, reportUnknownVariableType] (JSON)
    if found != [ARCHITECTURE]:
        raise CheckpointError(
            "checkpoint.architecture",
            f"the model in {path} says architectures = {found}, this version trains {ARCHITECTURE} only",
            {"path": str(path), "architectures": found},
        )
