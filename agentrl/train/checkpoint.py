"""Checkpoints from which a run continues bitwise: safetensors and JSON only, written whole or not at all.

    <root>/latest                 name of the newest complete checkpoint
    <root>/step_00000012/
        policy/                   the model in save_pretrained layout; loads in vLLM as it is
        optimizer.safetensors     the optimiser's tensors
        rng.safetensors           states of torch's generators
        state.json                everything else: step, optimiser scalars, generators, credit memory …
        manifest.json             size and SHA-256 of every other file

A checkpoint is staged beside its place, flushed to disk and renamed into it; `latest` moves after that.
No file of ours is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors import torch as safetensors_torch
from torch import Tensor
from transformers import Qwen3ForCausalLM

from agentrl.errors import CheckpointError
from agentrl.train.model import save_model
from agentrl.train.optimizer import Optimizer

__all__ = ["RandomGenerator", "TrainerState", "latest_checkpoint", "load_checkpoint", "save_checkpoint"]

RandomGenerator = random.Random | np.random.Generator | torch.Generator

load_file = cast("Callable[[Path], dict[str, Tensor]]", safetensors_torch.load_file)
save_file = cast("Callable[[dict[str, Tensor], Path], None]", safetensors_torch.save_file)

FORMAT = 1
LATEST = "latest"
TENSOR = "$tensor"
STEP_DIR = re.compile(r"step_\d{8,}")


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What a run must know besides weights and optimiser.

    Attributes:
        step: steps completed; the next one is `step + 1`.
        policy_version: version that the saved weights play under.
        store_position: where in the trajectory store the run stands.
        credit_memory: per-task memory of the credit methods, plain JSON.
        extra: anything else that is plain JSON.
    """

    step: int
    policy_version: int = 0
    store_position: int | None = None
    credit_memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    extra: Mapping[str, Any] = field(default_factory=dict[str, Any])


def save_checkpoint(
    root: str | Path,
    state: TrainerState,
    *,
    model: Qwen3ForCausalLM,
    optimizer: Optimizer,
    tokenizer_dir: str | Path | None = None,
    generators: Mapping[str, RandomGenerator] | None = None,
    keep: int = 2,
) -> Path:
    """Write a checkpoint, point `latest` at it and drop all but the newest `keep`; return its directory.

    Args:
        generators: the run's own random generators by name; torch's global ones are saved in any case.

    Raises:
        CheckpointError: the disk is full or not writable; earlier checkpoints are as they were.
    """
    root = Path(root)
    final = root / f"step_{state.step:08d}"
    staging = root / f".{final.name}.tmp"
    with _writing(final, staging):
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_model(model, tokenizer_dir, staging / "policy")
        tensors: dict[str, Tensor] = {}
        optimizer_json = _detach_tensors(optimizer.state_dict(), "", tensors)
        save_file(tensors, staging / "optimizer.safetensors")
        rng_tensors, rng_json = _save_generators(generators or {})
        save_file(rng_tensors, staging / "rng.safetensors")
        document = {
            "format": FORMAT,
            "step": state.step,
            "policy_version": state.policy_version,
            "store_position": state.store_position,
            "credit_memory": state.credit_memory,
            "extra": state.extra,
            "optimizer": optimizer_json,
            "generators": rng_json,
        }
        (staging / "state.json").write_text(json.dumps(document) + "\n", encoding="utf-8")
        (staging / "manifest.json").write_text(
            json.dumps(_digests(staging), indent=1) + "\n", encoding="utf-8"
        )
        for path in [*staging.rglob("*"), staging]:
            _flush(path)
        shutil.rmtree(final, ignore_errors=True)
        staging.rename(final)
        _point_latest(root, final.name)
    complete = sorted(path for path in root.iterdir() if STEP_DIR.fullmatch(path.name))
    for old in [path for path in complete if path != final][: max(0, len(complete) - keep)]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def latest_checkpoint(root: str | Path) -> Path | None:
    """Return the directory that `latest` names, or None where nothing was ever saved."""
    pointer = Path(root) / LATEST
    try:
        name = pointer.read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return None
    if not STEP_DIR.fullmatch(name) or not (Path(root) / name).is_dir():
        raise CheckpointError(
            "checkpoint.not_found", f"{pointer} names {name!r}, and there is no such checkpoint"
        )
    return Path(root) / name


def load_checkpoint(
    path: str | Path,
    *,
    model: Qwen3ForCausalLM,
    optimizer: Optimizer,
    generators: Mapping[str, RandomGenerator] | None = None,
) -> TrainerState:
    """Put a checkpoint's state into a model, an optimiser and generators that already exist.

    Nothing is changed before every file has been read and verified.

    Raises:
        CheckpointError: the checkpoint is incomplete, damaged, of another architecture or another
            optimiser; it names the file or weight.
    """
    path = Path(path)
    _verify(path)
    document = _read_json(path / "state.json")
    if document.get("format") != FORMAT:
        raise CheckpointError(
            "checkpoint.format", f"{path} has checkpoint format {document.get('format')}, not {FORMAT}"
        )
    weights = _load_weights(path / "policy", model)
    optimizer_tensors = _load_tensors(path / "optimizer.safetensors")
    rng_tensors = _load_tensors(path / "rng.safetensors")
    missing = sorted(set(generators or {}) - set(document["generators"]))
    if missing:
        raise CheckpointError("checkpoint.generator", f"{path} has no generator {', '.join(missing)}")
    optimizer.load_state_dict(_attach_tensors(document["optimizer"], optimizer_tensors))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    _load_generators(generators or {}, rng_tensors, document["generators"])
    return TrainerState(
        step=document["step"],
        policy_version=document["policy_version"],
        store_position=document["store_position"],
        credit_memory=document["credit_memory"],
        extra=document["extra"],
    )


@contextmanager
def _writing(final: Path, staging: Path) -> Generator[None, None, None]:
    """Turn whatever a disk does into one clear error, and leave no half-written directory."""
    try:
        yield
    except (OSError, SafetensorError, CheckpointError) as error:
        full = _is_disk_full(error)
        code, problem = (
            ("checkpoint.disk_full", "the disk is full") if full else ("checkpoint.unwritable", str(error))
        )
        raise CheckpointError(
            code,
            f"saving {final} failed: {problem}; earlier checkpoints are untouched",
            {"path": str(final)},
        ) from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _is_disk_full(error: BaseException | None) -> bool:
    while error is not None:
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        # safetensors reports an I/O error as text.
        if isinstance(error, SafetensorError) and "No space left" in str(error):
            return True
        error = error.__cause__
    return False


def _detach_tensors(value: Any, name: str, into: dict[str, Tensor]) -> Any:
    """Return nested state as JSON, its tensors moved out under dotted names."""
    if isinstance(value, Tensor):
        into[name] = value.detach().contiguous()
        return {TENSOR: name}
    if isinstance(value, Mapping):
        items = cast("Mapping[Any, Any]", value).items()
        return {str(key): _detach_tensors(item, f"{name}.{key}", into) for key, item in items}
    if isinstance(value, list | tuple):
        sequence = cast("list[Any]", value)
        return [_detach_tensors(item, f"{name}.{index}", into) for index, item in enumerate(sequence)]
    return value


def _attach_tensors(value: Any, tensors: Mapping[str, Tensor]) -> Any:
    """Undo `_detach_tensors`: keys that are numbers become ints again, as torch expects."""
    if isinstance(value, dict):
        items = cast("dict[str, Any]", value)
        if TENSOR in items:
            if items[TENSOR] not in tensors:
                raise CheckpointError(
                    "checkpoint.corrupt", f"the optimiser's tensor {items[TENSOR]} is missing"
                )
            return tensors[items[TENSOR]]
        return {(int(k) if k.isdigit() else k): _attach_tensors(v, tensors) for k, v in items.items()}
    if isinstance(value, list):
        sequence = cast("list[Any]", value)
        return [_attach_tensors(item, tensors) for item in sequence]
    return value


def _save_generators(generators: Mapping[str, RandomGenerator]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        tensors |= {f"cuda.{i}": state for i, state in enumerate(torch.cuda.get_rng_state_all())}
    documents: dict[str, Any] = {}
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            tensors[f"own.{name}"] = generator.get_state()
            documents[name] = None
        elif isinstance(generator, np.random.Generator):
            documents[name] = generator.bit_generator.state
        else:
            documents[name] = generator.getstate()
    return tensors, documents


def _load_generators(
    generators: Mapping[str, RandomGenerator], tensors: Mapping[str, Tensor], documents: Mapping[str, Any]
) -> None:
    torch.set_rng_state(tensors["torch"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda.{index}" in tensors:
                torch.cuda.set_rng_state(tensors[f"cuda.{index}"], index)
    for name, generator in generators.items():
        if isinstance(generator, torch.Generator):
            generator.set_state(tensors[f"own.{name}"])
        elif isinstance(generator, np.random.Generator):
            generator.bit_generator.state = documents[name]
        else:
            version, internal, gauss = documents[name]
            generator.setstate((version, tuple(internal), gauss))


def _load_weights(folder: Path, model: Qwen3ForCausalLM) -> dict[str, Tensor]:
    weights: dict[str, Tensor] = {}
    for file in sorted(folder.glob("*.safetensors")):
        weights |= _load_tensors(file)
    for name, parameter in model.named_parameters():
        found = tuple(weights[name].shape) if name in weights else None
        wanted = tuple(parameter.shape)
        if found != wanted:
            raise CheckpointError(
                "checkpoint.architecture",
                f"{folder} does not fit this model: {name} has shape {found}, expected {wanted}",
                {"path": str(folder), "weight": name},
            )
    return weights


def _load_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            "checkpoint.corrupt", f"cannot read {file}: {error}", {"path": str(file)}
        ) from error


def _verify(path: Path) -> None:
    manifest = _read_json(path / "manifest.json")
    for name, digest in manifest.items():
        file = path / name
        if not file.is_file():
            raise CheckpointError("checkpoint.corrupt", f"{path} is incomplete: {name} is missing")
        if _digest(file) != digest:
            raise CheckpointError("checkpoint.corrupt", f"{file} is damaged: it is not what was written")


def _read_json(file: Path) -> dict[str, Any]:
    try:
        document: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError("checkpoint.not_found", f"there is no checkpoint: no {file}") from None
    except (OSError, ValueError) as error:
        raise CheckpointError("checkpoint.corrupt", f"cannot read {file}: {error}") from error
    return document


def _digests(folder: Path) -> dict[str, Any]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): _digest(path) for path in files}


def _digest(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        return {"bytes": file.stat().st_size, "sha256": hashlib.file_digest(stream, "sha256").hexdigest()}


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _point_latest(root: Path, name: str) -> None:
    staging = root / f".{LATEST}.tmp"
    staging.write_text(name + "\n", encoding="utf-8")
    _flush(staging)
    staging.replace(root / LATEST)
    _flush(root)
