"""Play one episode: the loop that everything else serves, on one screen."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from agentrl.env import Env, EnvSession
from agentrl.errors import AgentRLError, EnvError, PolicyError, RolloutError, boundary
from agentrl.policy.base import Completion, Policy, SampleRequest, SamplingParams
from agentrl.policy.render import Renderer
from agentrl.rollout.limits import Limits
from agentrl.rollout.seeds import derive_seed
from agentrl.types import Episode, Observation, Step, StopReason, Task, Turn

__all__ = ["EpisodeSpec", "Player", "play"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Player:
    """What plays: the same for every episode of a batch."""

    env: Env
    policy: Policy
    renderer: Renderer
    limits: Limits
    temperature: float
    top_p: float = 1.0


@dataclass(frozen=True, slots=True)
class EpisodeSpec:
    """Which episode to play: its names, its task and the seed of every choice in it."""

    episode_id: str
    group_id: str
    task: Task
    seed: int
    batch: int = 0
    config_hash: str = ""
    metadata: Mapping[str, Any] = field(default_factory=dict[str, Any])


async def play(player: Player, spec: EpisodeSpec) -> Episode:
    """Play one episode to its end; a failure of policy or environment is recorded on it, not raised.

    Raises:
        AgentRLError: only what concerns every episode alike (a store, config or alignment error).
    """
    turns: list[Turn] = []
    outcome = _Outcome()
    session: EnvSession | None = None
    try:
        with boundary(EnvError, "env.session", f"opening a session for episode {spec.episode_id}"):
            session = player.env.session()
        await _play(player, spec, session, turns, outcome)
    except RolloutError as error:
        outcome.stop, outcome.error = StopReason.ERROR, error
    finally:
        cleaning = asyncio.create_task(_clean_up(player, spec, session, outcome))
        try:
            await asyncio.shield(cleaning)
        finally:
            await asyncio.wait([cleaning])  # an episode that is cancelled here still cleans up before it goes
    return Episode(
        episode_id=spec.episode_id,
        group_id=spec.group_id,
        task_id=spec.task.task_id,
        env=spec.task.env,
        env_version=player.env.version,
        seed=spec.seed,
        turns=tuple(turns),
        stop_reason=outcome.stop,
        batch=spec.batch,
        config_hash=spec.config_hash,
        correct=outcome.correct,
        format_ok=outcome.format_ok,
        error=None if outcome.error is None else outcome.error.to_json(),
        metadata={"task_kind": spec.task.kind, **spec.metadata, **outcome.info},
    )


@dataclass(slots=True)
class _Outcome:
    stop: StopReason = StopReason.MAX_TURNS
    correct: bool | None = None
    format_ok: bool | None = None
    error: AgentRLError | None = None
    info: dict[str, Any] = field(default_factory=dict[str, Any])


async def _play(
    player: Player, spec: EpisodeSpec, session: EnvSession, turns: list[Turn], outcome: _Outcome
) -> None:
    limits, renderer = player.limits, player.renderer
    showing = f"rendering what the environment of episode {spec.episode_id} showed"
    deadline_s = time.monotonic() + limits.episode_timeout_s
    observation = await _call(session.start(spec.task), "env.start", spec, limits)
    with boundary(EnvError, "env.observation", showing):
        prompt_ids = renderer.open_ids(observation.messages)
    context = list(prompt_ids)
    for index in range(limits.turns):
        if len(context) + limits.reply_tokens > limits.context_tokens:
            outcome.stop = StopReason.MAX_TOKENS
            return
        try:
            async with asyncio.timeout(deadline_s - time.monotonic()):
                completion = await _sample(player, spec, index, context)
        except TimeoutError:
            outcome.stop = StopReason.TIMEOUT
            return
        context += completion.token_ids
        reply = renderer.parse(completion.token_ids)
        step = await _call(session.step(reply), "env.step", spec, limits)
        call_at = renderer.tool_call_at(completion.token_ids)
        turns.append(_turn(index, observation, prompt_ids, completion, reply.content, step, call_at))
        outcome.info.update(step.info)
        outcome.correct = outcome.correct if step.correct is None else step.correct
        outcome.format_ok = outcome.format_ok if step.format_ok is None else step.format_ok
        if step.terminated or step.observation is None:
            outcome.stop = StopReason.TERMINATED
            return
        observation = step.observation
        with boundary(EnvError, "env.observation", showing):
            if observation.fresh_context:
                prompt_ids, context = renderer.open_ids(observation.messages), []
            else:
                closed = completion.finish == "stop"
                prompt_ids = renderer.append_ids(observation.messages, closed=closed)
        context += prompt_ids


async def _sample(player: Player, spec: EpisodeSpec, index: int, context: list[int]) -> Completion:
    request = SampleRequest(
        session=spec.episode_id,
        context_ids=tuple(context),
        seed=derive_seed(spec.seed, "turn", index),
        params=SamplingParams(
            max_tokens=player.limits.reply_tokens,
            temperature=player.temperature,
            top_p=player.top_p,
            stop_ids=player.renderer.stop_ids,
        ),
    )
    with boundary(PolicyError, "policy.sample", f"turn {index} of episode {spec.episode_id}"):
        return await player.policy.sample(request)


def _turn(
    index: int,
    observation: Observation,
    prompt_ids: tuple[int, ...],
    completion: Completion,
    reply: str,
    step: Step,
    tool_call_at: int | None,
) -> Turn:
    return Turn(
        index=index,
        reward=step.reward,
        state_key=observation.state_key,
        action_valid=step.action_valid,
        tool_calls=step.tool_calls,
        tool_call_at=tool_call_at,
        num_tokens=len(completion.token_ids),
        policy_version=completion.policy_version,
        observation="\n\n".join(message.content for message in observation.messages),
        reply=reply,
        fresh_context=index == 0 or observation.fresh_context,
        prompt_ids=prompt_ids,
        token_ids=completion.token_ids,
        sampled=(1,) * len(completion.token_ids),
        logprobs=completion.logprobs,
        entropies=completion.entropies,
    )


async def _call(call: Awaitable[T], code: str, spec: EpisodeSpec, limits: Limits) -> T:
    doing = f"{code} of episode {spec.episode_id} (task {spec.task.task_id})"
    with boundary(EnvError, code, doing, episode_id=spec.episode_id, task_id=spec.task.task_id):
        async with asyncio.timeout(limits.step_timeout_s):
            return await call


async def _clean_up(player: Player, spec: EpisodeSpec, session: EnvSession | None, outcome: _Outcome) -> None:
    # The episode itself was played: it stays valid, and a leak stays visible.
    try:
        with boundary(PolicyError, "policy.end_session", f"ending the session of episode {spec.episode_id}"):
            await player.policy.end_session(spec.episode_id)
    except RolloutError as error:
        outcome.info["end_session_error"] = error.to_json()
    if session is None:
        return
    try:
        await _call(session.close(), "env.close", spec, player.limits)
    except RolloutError as error:
        outcome.info["close_error"] = error.to_json()
