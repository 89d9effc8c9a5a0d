"""Demonstrations: a scripted expert plays real episodes, rendered to the tokens a policy would see."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from agentrl import bundle
from agentrl.config import Config
from agentrl.env import Demonstrator, ExpertReply
from agentrl.errors import ConfigError
from agentrl.policy.render import Renderer, read_reply
from agentrl.rollout.seeds import derive_seed
from agentrl.rollout.setup import build_env
from agentrl.train.cloning import Demonstration
from agentrl.types import Message, Observation, Task

__all__ = ["Transcript", "demonstrations", "render", "transcripts"]

CHUNK = 64
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Transcript:
    """One expert episode: what was shown before each reply, the replies, and whether it succeeded."""

    observations: tuple[tuple[Message, ...], ...]
    replies: tuple[ExpertReply, ...]
    solved: bool

    @property
    def text(self) -> str:
        """The conversation with its roles, for training a tokenizer."""
        said = zip(self.observations, self.replies, strict=True)
        return "\n".join(
            "\n".join([*(f"{m.role}\n{m.content}" for m in shown), f"assistant\n{reply.text}"])
            for shown, reply in said
        )


def transcripts(config: Config, episodes: int, *, workers: int) -> Iterator[Transcript]:
    """Yield expert episodes on the training tasks, in an order that does not depend on `workers`."""
    return _in_chunks(partial(_play_chunk, config), episodes, workers)


def demonstrations(
    config: Config, checkpoint: Path, episodes: int, *, workers: int
) -> Iterator[Demonstration]:
    """Yield the solved expert episodes as tokens of the checkpoint's tokenizer, with loss weights."""
    return _in_chunks(partial(_render_chunk, config, checkpoint), episodes, workers)


def render(
    renderer: Renderer, transcript: Transcript, *, observation_weight: float, slip_weight: float
) -> Demonstration:
    """Turn a transcript into token ids and one loss weight per token.

    1 for what the expert says (end of turn included), `slip_weight` for its slips, `observation_weight` for
    what the environment says.
    """
    ids: list[int] = []
    weights: list[float] = []
    for index, (shown, reply) in enumerate(zip(transcript.observations, transcript.replies, strict=True)):
        prompt = renderer.open_ids(shown) if index == 0 else renderer.append_ids(shown, closed=True)
        answer = renderer.reply_ids(reply.text)
        ids += [*prompt, *answer]
        weights += [observation_weight] * len(prompt) + [slip_weight if reply.slip else 1.0] * len(answer)
    return Demonstration(np.asarray(ids, np.int64), np.asarray(weights, np.float32))  # pyright: ignore


def _in_chunks(work: Callable[[range], Sequence[T]], episodes: int, workers: int) -> Iterator[T]:
    chunks = [range(start, min(start + CHUNK, episodes)) for start in range(0, episodes, CHUNK)]
    if workers == 1:
        for chunk in chunks:
            yield from work(chunk)
        return
    with ProcessPoolExecutor(workers, get_context("spawn"), initializer=_start_worker) as pool:
        for played in pool.map(work, chunks):
            yield from played


def _start_worker() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    bundle.activate()


def _render_chunk(config: Config, checkpoint: Path, chunk: range) -> list[Demonstration]:
    assert config.clone is not None
    renderer = Renderer.load(checkpoint)
    weigh = partial(
        render, observation_weight=config.clone.observation_weight, slip_weight=config.clone.slip_weight
    )
    return [weigh(renderer, transcript) for transcript in _play_chunk(config, chunk) if transcript.solved]


def _play_chunk(config: Config, chunk: range) -> list[Transcript]:
    assert config.clone is not None
    env = build_env(config)
    if not isinstance(env, Demonstrator):
        raise ConfigError("clone.no_expert", f"environment {config.env.id!r} has no scripted expert to clone")
    tasks = env.tasks("train")
    if not tasks:
        raise ConfigError("rollout.no_tasks", "the split has no tasks: check the settings in [env]")
    slip_rate, max_turns = config.clone.slip_rate, config.rollout.max_turns

    async def play_all() -> list[Transcript]:
        return [
            await _play_one(
                env, tasks[i % len(tasks)], derive_seed(config.run.seed, "expert", i), slip_rate, max_turns
            )
            for i in chunk
        ]

    return asyncio.run(play_all())


async def _play_one(env: Any, task: Task, seed: int, slip_rate: float, max_turns: int) -> Transcript:
    session, expert = env.session(), env.expert(seed=seed, slip_rate=slip_rate)
    shown: Observation = await session.start(task)
    observations: list[tuple[Message, ...]] = []
    replies: list[ExpertReply] = []
    solved = False
    while len(replies) < max_turns:
        observations.append(shown.messages)
        replies.append(expert.act(shown))
        step = await session.step(read_reply(replies[-1].text))
        solved = bool(step.correct)
        if step.terminated or step.observation is None:
            break
        shown = step.observation
    await session.close()
    return Transcript(tuple(observations), tuple(replies), solved)
