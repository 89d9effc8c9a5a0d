"""One training run: built from a config, or picked up where its last checkpoint left it.

    <run.dir>/<run id>/config.json       the resolved config
                       checkpoints/      exact trainer state; `policy/` in each loads in vLLM as it is
                       metrics.jsonl     and TensorBoard files
                       before.json, after.json, report.png

Every row of the trajectory store that belongs to the run is written here.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from transformers import Qwen3ForCausalLM

from agentrl import bundle
from agentrl.config import OPERATIONAL, Config, run_config
from agentrl.credit.pipeline import Pipeline, build
from agentrl.credit.result import CreditResult
from agentrl.errors import ConfigError, StoreError, boundary
from agentrl.loss import build as build_loss
from agentrl.policy.local import LocalPolicy
from agentrl.policy.render import Renderer
from agentrl.rollout.episode import Player
from agentrl.rollout.metrics import episode_metrics
from agentrl.rollout.setup import batch_tasks, build_env, build_player
from agentrl.store.db import Store
from agentrl.store.entries import EpisodeCredit, RunStatus
from agentrl.store.files import replacing
from agentrl.train.checkpoint import TrainerState, latest_checkpoint, load_checkpoint, save_checkpoint
from agentrl.train.metrics import MetricsLog
from agentrl.train.model import load_model, pick_device
from agentrl.train.optimizer import LearningRate, Optimizer, build_optimizer
from agentrl.train.rows import Row, sequence_rows
from agentrl.train.update import UpdateSettings
from agentrl.types import Episode, Task

__all__ = ["Run", "Watcher", "open_run", "resume_run"]


class Watcher(Protocol):
    """Sees a run go by (a progress bar, a test)."""

    def group_done(self, group: Sequence[Episode]) -> None:
        """Note that a group of episodes has been played."""

    def step_done(self, step: int, metrics: Mapping[str, float]) -> None:
        """Note that a training step is complete."""


@dataclass(slots=True)
class Run:
    """Everything that the loop works with; see `agentrl.train.loop`."""

    config: Config
    run_id: str
    dir: Path
    store: Store
    tasks: Sequence[Task]
    player: Player
    policy: LocalPolicy
    model: Qwen3ForCausalLM
    ref_model: Qwen3ForCausalLM | None
    optimizer: Optimizer
    pipeline: Pipeline
    update_settings: UpdateSettings
    log: MetricsLog = field(init=False)
    credit_run_id: str = ""
    memory: Mapping[str, Any] = field(default_factory=dict[str, Any])
    next_step: int = 0
    _timings_s: dict[str, float] = field(default_factory=dict[str, float])

    @contextmanager
    def timed(self, part: str) -> Generator[None]:
        """Measure a part of the step, in seconds, for `timing_s/<part>`."""
        started_s = time.monotonic()
        yield
        self._timings_s[part] = time.monotonic() - started_s

    async def store_episodes(self, group: Sequence[Episode]) -> None:
        """Commit a finished group, off the event loop, at its own place in the batch."""
        position = int(group[0].group_id.rpartition("-")[2]) * self.config.rollout.group_size
        await asyncio.to_thread(self.store.add_episodes, self.run_id, group, position=position)

    def store_metrics(self, step: int, metrics: Mapping[str, float]) -> None:
        """Record a step's metrics beside its episodes."""
        self.store.add_metrics(self.run_id, step, metrics)

    def store_credit(self, credit: CreditResult) -> None:
        """Commit the credit of a batch, every term of every turn."""
        self.store.add_credit(self.credit_run_id, _episode_credits(credit))

    def rows(self, credit: CreditResult) -> list[Row]:
        """Lay the clean episodes out as training rows, each channel's advantage on every sampled token."""
        channels = [(c.name, credit.by_episode(c.advantage_N, c.credited_N)) for c in credit.channels]
        tokens = [(c.name, given) for c in credit.channels if (given := credit.token_offsets(c)) is not None]
        rows: list[Row] = []
        for number, episode in enumerate(credit.episodes):
            if episode.error is None and episode.turns:
                rows += sequence_rows(
                    episode,
                    {name: values[number] for name, values in channels},
                    token_offsets={
                        name: [turn_T.tolist() for turn_T in turns[number]] for name, turns in tokens
                    },
                )
        return rows

    def finish_step(
        self, step: int, episodes: Sequence[Episode], credit: CreditResult, learned: Mapping[str, float]
    ) -> dict[str, float]:
        """Log the step's metrics, and commit it with a checkpoint when one is due; return the metrics."""
        figures = {**episode_metrics(episodes), **credit.metrics, **learned, **self._step_timings(episodes)}
        with boundary(StoreError, "metrics.unwritable", f"logging the metrics of step {step} to {self.dir}"):
            self.log.log(step, figures)
        self.next_step = step + 1
        last = self.next_step == self.config.train.steps
        if last or self.next_step % self.config.train.checkpoint_every == 0:
            self.save()
        return figures

    def save(self) -> None:
        """Write a checkpoint, then commit its batch in the store."""
        path = save_checkpoint(
            self.dir / "checkpoints",
            TrainerState(self.next_step, self.policy.version, credit_memory=self.memory),
            model=self.model,
            optimizer=self.optimizer,
            tokenizer_dir=bundle.find(self.config.policy.checkpoint),
            keep=self.config.train.keep_checkpoints,
        )
        self.store.commit_batch(self.run_id, self.next_step - 1, str(path))

    async def close(self) -> None:
        """Release everything; the run can be resumed from its last checkpoint."""
        await self.policy.close()
        self.store.close()
        # Every step was flushed when it was logged: on a full disk there is nothing left to lose.
        with suppress(OSError):
            self.log.close()

    def _step_timings(self, episodes: Sequence[Episode]) -> dict[str, float]:
        total_s = sum(self._timings_s.values())
        tokens = sum(len(t.prompt_ids or ()) + (t.num_tokens or 0) for e in episodes for t in e.turns)
        timings = {f"timing_s/{part}": seconds for part, seconds in self._timings_s.items()}
        self._timings_s.clear()
        return {**timings, "timing_s/step": total_s, "perf/throughput": tokens / max(total_s, 1e-9)}


def open_run(config: Config) -> Run:
    """Start a new run.

    Raises:
        ConfigError, UnknownPlugin, CheckpointError, StoreError: the user's, before anything is played.
    """
    run = _assemble(config, f"{config.run.name}-{secrets.token_hex(3)}")
    _write_config(run.dir, config)
    run.log = _open_log(run)
    run.store.add_run(
        name=config.run.name,
        env=config.env.id,
        config=config.to_json(),
        config_hash=config.hash,
        run_id=run.run_id,
    )
    run.credit_run_id = run.store.add_credit_run(run.run_id, run.pipeline.spec)
    return run


def resume_run(runs_dir: Path, run_id: str, overrides: Sequence[str] = ()) -> Run:
    """Continue a run from its last checkpoint, as if it had never stopped.

    Raises:
        ConfigError: there is no such run, or an override would change what was already played.
        CheckpointError: its checkpoint cannot be read.
    """
    started, config = run_config(runs_dir, run_id), run_config(runs_dir, run_id, overrides)
    free = set(OPERATIONAL) - {"run.dir"}
    if config.train.lr_schedule == "linear":
        free.remove("train.steps")
    if changed := sorted(_changed(started, config) - free):
        raise ConfigError(
            "run.changed",
            f"run {run_id} cannot be resumed with other values of {', '.join(changed)}: "
            "start a new run, from its checkpoint if you like",
        )
    run = _assemble(config, run_id)
    run.credit_run_id = run.store.credit_runs(run_id)[0].credit_run_id
    checkpoint = latest_checkpoint(run.dir / "checkpoints")
    if checkpoint is not None:
        state = load_checkpoint(checkpoint, model=run.model, optimizer=run.optimizer)
        run.next_step, run.memory = state.step, state.credit_memory
        run.policy.refresh(state.policy_version)
    run.log = _open_log(run, resume_step=run.next_step - 1)
    run.store.resume(run_id, from_batch=run.next_step)
    if checkpoint is not None and run.store.last_committed_batch(run_id) != run.next_step - 1:
        # It stopped between writing the checkpoint and telling the store.
        run.store.commit_batch(run_id, run.next_step - 1, str(checkpoint))
    run.store.set_status(run_id, RunStatus.RUNNING)
    return run


def _assemble(config: Config, run_id: str) -> Run:
    checkpoint = bundle.find(config.policy.checkpoint)
    env = build_env(config)
    tasks = env.tasks("train")
    # What is not there is said now, not after the first evaluation.
    batch_tasks(tasks, count=1, batch=0, seed=config.run.seed)
    env.tasks(config.eval.split)
    build_loss(config.loss.name, config.loss.options)
    pipeline = build(config.credit)
    if config.policy.threads is not None:
        torch.set_num_threads(config.policy.threads)
    device = pick_device(config.policy.device)
    model = load_model(checkpoint, device=device)
    train = config.train
    total_steps = train.steps * train.epochs * train.minibatches
    optimizer = build_optimizer(
        model,
        train.optimizer,
        train.lr,
        weight_decay=train.weight_decay,
        grad_clip=train.grad_clip,
        rate=LearningRate(train.lr_schedule, train.warmup_steps, total_steps),
    )
    policy = LocalPolicy(
        model,
        device=device,
        dtype=config.policy.dtype,
        slots=config.policy.slots,
        max_context_tokens=config.policy.max_context_tokens,
    )
    return Run(
        config=config,
        run_id=run_id,
        dir=config.run.dir / run_id,
        store=Store.open(config.store_url),
        tasks=tasks,
        player=build_player(config, env, policy, Renderer.load(checkpoint)),
        policy=policy,
        model=model,
        ref_model=load_model(checkpoint, device=device) if config.loss.kl_coef else None,
        optimizer=optimizer,
        pipeline=pipeline,
        update_settings=_update_settings(config, pipeline),
    )


def _open_log(run: Run, resume_step: int | None = None) -> MetricsLog:
    with boundary(StoreError, "metrics.unwritable", f"opening the metrics in {run.dir}"):
        return MetricsLog(run.dir, run.store_metrics, resume_step=resume_step)


def _write_config(folder: Path, config: Config) -> None:
    with boundary(StoreError, "run.unwritable", f"making the run's folder {folder}"):
        folder.mkdir(parents=True)
    with replacing(folder / "config.json") as draft:
        draft.write_text(json.dumps(config.to_json(), indent=2) + "\n", encoding="utf-8")


def _update_settings(config: Config, pipeline: Pipeline) -> UpdateSettings:
    loss, train = config.loss, config.train
    return UpdateSettings(
        loss=loss.name,
        loss_options=loss.options,
        aggregation=loss.aggregation,
        channel_weights={channel.name: channel.weight for channel in pipeline.channels},
        kl_kind=loss.kl_kind,
        kl_coef=loss.kl_coef,
        entropy_coef=loss.entropy_coef,
        epochs=train.epochs,
        minibatches=train.minibatches,
        microbatch_tokens=train.microbatch_tokens,
        autocast=train.autocast,
        old_logprobs=train.old_logprobs,
        seed=config.run.seed,
    )


def _episode_credits(credit: CreditResult) -> Iterator[EpisodeCredit]:
    for record in credit.records():
        turns = record["turns"]
        yield EpisodeCredit(
            record["episode_id"],
            tuple(turn["advantage"] for turn in turns),
            tuple(turn["terms"] for turn in turns),
            {name: tuple(values) for name, values in record["channels"].items()},
        )


def _changed(before: Config, after: Config) -> set[str]:
    def flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
        if not isinstance(value, dict):
            yield name, value
            return
        for key, inner in cast("dict[str, Any]", value).items():
            yield from flat(inner, f"{name}.{key}" if name else key)

    old, new = dict(flat(before.to_json(), "")), dict(flat(after.to_json(), ""))
    return {key for key in old | new if old.get(key) != new.get(key)}
