"""Make a base model from nothing: tokenizer, copy warm-up, behaviour cloning of a scripted expert."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import cast

import torch
from transformers import Qwen3ForCausalLM

from agentrl import bundle
from agentrl.config import CloneSection, Config
from agentrl.errors import CheckpointError, ConfigError, boundary
from agentrl.policy.tokenizer import save_tokenizer, train_tokenizer
from agentrl.rollout.seeds import derive_seed
from agentrl.train.cloning import CloneSettings, CopySettings, Demonstration, Progress, clone, copy_warmup
from agentrl.train.demonstrations import demonstrations, transcripts
from agentrl.train.induction import set_copying_heads
from agentrl.train.model import ModelShape, copy_tokenizer, load_model, new_model, save_model

__all__ = ["build_base"]

Watch = Callable[[str, int, int, Mapping[str, float]], None]


def build_base(config: Config, *, device: str, watch: Watch) -> Path:
    """Build the model that `[model]` and `[clone]` describe and save it, with its log, to `clone.out`.

    Args:
        device: "cpu" or "cuda".
        watch: called after every step with the stage ("copy", "clone"), its steps, tokens and metrics.

    Raises:
        ConfigError: there is no `[clone]` table, or the environment has no expert.
        CheckpointError: the folder cannot be written.
    """
    settings = config.clone
    if settings is None:
        raise ConfigError("clone.missing", "the config has no [clone] table: nothing says what to imitate")
    torch.manual_seed(config.run.seed)
    if config.policy.threads is not None:
        torch.set_num_threads(config.policy.threads)
    with boundary(CheckpointError, "checkpoint.unwritable", f"making the folder {settings.out}"):
        settings.out.mkdir(parents=True, exist_ok=True)
    model = _new_base(config, settings) if settings.start is None else _started(settings, settings.start)
    cast(torch.nn.Module, model).to(device)
    examples = list(demonstrations(config, settings.out, settings.episodes, workers=settings.workers))
    if not examples:
        raise ConfigError(
            "clone.no_demonstrations",
            f"the expert solved none of {settings.episodes} episodes in {config.rollout.max_turns} turns: "
            "raise rollout.max_turns or clone.episodes",
        )
    log = _Log(watch)
    if settings.start is None:
        copied = CopySettings(max_steps=settings.copy_warmup_steps, batch_tokens=settings.batch_tokens)
        copy_warmup(model, copied, seed=config.run.seed, progress=log.of("copy"))
    cloned = CloneSettings(
        token_budget=settings.token_budget,
        batch_tokens=settings.batch_tokens,
        lr=settings.lr,
        adamw_lr=settings.adamw_lr,
    )
    clone(model, _epochs(examples, config.run.seed), cloned, progress=log.of("clone"))
    save_model(model, settings.out, settings.out, dtype=torch.bfloat16)
    with boundary(CheckpointError, "checkpoint.unwritable", f"writing the log and recipe to {settings.out}"):
        log.write(settings.out / "training.jsonl")
        _write_card(settings, config)
    return settings.out


def _new_base(config: Config, settings: CloneSection) -> Qwen3ForCausalLM:
    texts = (t.text for t in transcripts(config, settings.tokenizer_episodes, workers=settings.workers))
    tokenizer = train_tokenizer(texts, config.model.vocab_size)
    save_tokenizer(tokenizer, settings.out, max_tokens=config.model.max_position)
    shape = ModelShape(**config.model.model_dump(exclude={"vocab_size"}))
    model = new_model(shape, tokenizer.get_vocab_size(with_added_tokens=True), seed=config.run.seed)
    set_copying_heads(model, seed=config.run.seed)
    return model


def _started(settings: CloneSection, start: Path) -> Qwen3ForCausalLM:
    checkpoint = bundle.find(start)
    model = load_model(checkpoint)
    if checkpoint.resolve() != settings.out.resolve():
        copy_tokenizer(checkpoint, settings.out)
    return model


def _epochs(examples: Sequence[Demonstration], seed: int) -> Iterator[Demonstration]:
    order = list(range(len(examples)))
    for epoch in count():
        random.Random(derive_seed(seed, "epoch", epoch)).shuffle(order)
        yield from (examples[i] for i in order)


class _Log:
    """Keeps every fiftieth step of each stage for the file that ships with the model."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._rows: list[dict[str, object]] = []

    def of(self, stage: str) -> Callable[[Progress], None]:
        def note(progress: Progress) -> None:
            self._watch(stage, progress.steps, progress.tokens, progress.metrics)
            if progress.steps % 50 == 1:
                figures = {name: round(value, 5) for name, value in progress.metrics.items()}
                row: dict[str, object] = {
                    "stage": stage,
                    "step": progress.steps,
                    "tokens": progress.tokens,
                    **figures,
                }
                self._rows.append(row)

        return note

    def write(self, file: Path) -> None:
        file.write_text("".join(json.dumps(row) + "\n" for row in self._rows), encoding="utf-8")


def _write_card(settings: CloneSection, config: Config) -> None:
    recipe = config.to_json()
    del recipe["run"]["dir"], recipe["clone"]["out"]
    (settings.out / "recipe.json").write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
