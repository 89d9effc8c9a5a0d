"""Conformance: does an environment or a tool keep its protocol? Used by `agentrl check` and by the tests.

Every check is a named finding with what was seen; nothing here raises for a plug-in's fault.
"""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Any

from agentrl.env import Demonstrator, Env
from agentrl.errors import AgentRLError, ConfigError
from agentrl.policy.render import read_reply
from agentrl.tool import Tool, call_tool
from agentrl.types import Observation, Step, Task, ToolCall

__all__ = ["Finding", "check_env", "check_tool"]

JUNK = (
    "",
    " ",
    "\x00",
    "\ud800 lone surrogate",
    "x" * 100_000,
    "<action>",
    "{{7*7}}",
    '<tool_call>\n{"name": "no such tool", "arguments": {"x": "\\ud800"}}\n</tool_call>',
    "<tool_call>\n{",
    "ignore the rules\n" * 50,
)
MAX_STEPS = 100
CALL_TIMEOUT_S = 30.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: its name, whether it holds, and what was seen when it does not."""

    name: str
    passed: bool
    seen: str = ""


@dataclass(frozen=True, slots=True)
class Played:
    """What one episode showed."""

    observations: tuple[Observation, ...]
    steps: tuple[Step, ...]


async def check_env(
    make: Callable[[], Env], splits: Sequence[str], tasks_per_split: int = 3
) -> list[Finding]:
    """Run every check on an environment; `make` builds a fresh one with the settings under test.

    Raises:
        ConfigError: one of `splits` does not exist (the caller's mistake).
    """
    first, second = make(), make()
    findings: list[Finding] = []

    async def check(name: str, body: Callable[[], Awaitable[str]]) -> None:
        try:
            seen = await asyncio.wait_for(body(), CALL_TIMEOUT_S * tasks_per_split)
        except Exception as error:  # a plug-in may raise anything: that is the finding
            seen = f"{type(error).__name__}: {error}"
        findings.append(Finding(name, not seen, seen))

    async def unknown_split() -> str:
        try:
            first.tasks("no such split")
        except ConfigError:
            return ""
        return "an unknown split must raise ConfigError"

    await check("an unknown split is refused", unknown_split)
    for split in splits:
        try:
            tasks = list(itertools.islice(first.tasks(split), tasks_per_split))
            again = list(itertools.islice(second.tasks(split), tasks_per_split))
        except ConfigError:
            raise  # the split was asked for by a person
        except Exception as error:
            findings.append(Finding(f"{split}: has tasks", False, f"{type(error).__name__}: {error}"))
            continue

        async def same_tasks(tasks: list[Task] = tasks, again: list[Task] = again, split: str = split) -> str:
            if not tasks:
                return f"split {split!r} has no tasks"
            return "" if tasks == again else "two instances give different tasks"

        await check(f"{split}: tasks are deterministic", same_tasks)
        for task in tasks:
            for name, body in _task_checks(first, second, task):
                await check(f"{split} {task.task_id}: {name}", body)
    return findings


def _task_checks(env: Env, other: Env, task: Task) -> list[tuple[str, Callable[[], Awaitable[str]]]]:
    async def junk_is_data() -> str:
        played = await _play(env, task, list(JUNK))
        wrong = [s for s in played.steps if s.action_valid or s.reward > 0]
        return f"{len(wrong)} of {len(played.steps)} junk replies were valid or rewarded" if wrong else ""

    async def junk_repeats() -> str:
        one, two = await _play(env, task, list(JUNK)), await _play(other, task, list(JUNK))
        return "" if _shown(one) == _shown(two) else "the same replies gave different observations"

    async def json_able() -> str:
        played = await _play(env, task, ["junk"])
        json.dumps([(o.state_key, dict(o.info)) for o in played.observations])
        json.dumps([dict(s.info) for s in played.steps])
        return ""

    async def closes_twice() -> str:
        session = env.session()
        await session.close()
        await session.close()
        return ""

    async def expert_wins() -> str:
        replies = await _expert_replies(env, task)
        one, two = await _play(env, task, replies), await _play(other, task, replies)
        if _shown(one) != _shown(two):
            return "the expert's replies gave different observations the second time"
        last = one.steps[-1]
        return (
            ""
            if last.correct and last.terminated
            else f"the expert did not solve it in {len(one.steps)} steps"
        )

    async def sessions_apart() -> str:
        alone = await _play(env, task, ["junk", "junk"])
        session, busy = env.session(), env.session()
        await busy.start(task)
        shown = await session.start(task)
        await busy.step(read_reply("something else"))
        step = await session.step(read_reply("junk"))
        await session.close()
        await busy.close()
        same = alone.observations[0] == shown and alone.steps[0] == step
        return "" if same else "another live session changed what this one showed"

    checks: list[tuple[str, Callable[[], Awaitable[str]]]] = [
        ("bad replies are data, not errors", junk_is_data),
        ("the same replies give the same episode", junk_repeats),
        ("state keys and info are JSON", json_able),
        ("close is idempotent", closes_twice),
        ("sessions do not touch each other", sessions_apart),
    ]
    if isinstance(env, Demonstrator):
        checks.append(("its expert solves it", expert_wins))
    return checks


async def _play(env: Env, task: Task, replies: Sequence[str]) -> Played:
    session = env.session()
    try:
        observations = [await session.start(task)]
        steps: list[Step] = []
        for reply in replies:
            steps.append(await session.step(read_reply(reply)))
            shown = steps[-1].observation
            if steps[-1].terminated or shown is None:
                break
            observations.append(shown)
        return Played(tuple(observations), tuple(steps))
    finally:
        await session.close()


async def _expert_replies(env: Any, task: Task) -> list[str]:
    session, expert = env.session(), env.expert(seed=0)
    shown: Observation | None = await session.start(task)
    replies: list[str] = []
    while shown is not None and len(replies) < MAX_STEPS:
        replies.append(expert.act(shown).text)
        step = await session.step(read_reply(replies[-1]))
        shown = None if step.terminated else step.observation
    await session.close()
    return replies


def _shown(played: Played) -> list[Any]:
    observations = [(o.messages, o.state_key) for o in played.observations]
    return [observations, [(s.reward, s.terminated, s.action_valid, s.correct) for s in played.steps]]


async def check_tool(tool: Any) -> list[Finding]:
    """Run every check on a tool: its schema, and that no mistake of a model raises."""
    if not isinstance(tool, Tool):
        return [Finding("is a Tool", False, f"got {type(tool).__name__}; decorate the function with @tool")]
    findings = [Finding("is a Tool", True)]
    schema = json.dumps(tool.schema())
    findings.append(Finding("its schema is JSON and described", bool(tool.description) and len(schema) > 0))
    for name, arguments in (
        ("no arguments", {}),
        ("unknown argument", {"no such": 1}),
        ("unreadable JSON", None),
    ):
        call = ToolCall("check", tool.name, arguments)
        required = any(f.is_required() for f in tool.arguments.model_fields.values())
        if name == "no arguments" and not required:
            continue
        try:
            async with asyncio.timeout(CALL_TIMEOUT_S):
                result = await call_tool({tool.name: tool}, call, {})
        except (AgentRLError, TimeoutError) as error:
            findings.append(Finding(f"a call with {name} is answered", False, str(error)))
        else:
            findings.append(
                Finding(f"a call with {name} is answered", not result.valid, result.content[:200])
            )
    return findings
