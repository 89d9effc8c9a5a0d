"""The conformance suite: a good plug-in passes, and every kind of broken one fails where it is broken."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from guess import GuessEnv, GuessExpert, GuessSession, Settings

from agentrl import check, registry
from agentrl.check import Finding, check_env, check_tool
from agentrl.config import parse_settings
from agentrl.env import Demonstrator, Env
from agentrl.errors import ConfigError, ToolError
from agentrl.tool import tool
from agentrl.types import Message, Observation, Step, Task


def make(broken: type[GuessEnv] = GuessEnv) -> Callable[[], GuessEnv]:
    return lambda: broken(Settings())


def variant(session_step: Callable[[GuessSession, Message, Step], Any]) -> type[GuessEnv]:
    """A game whose sessions do something after every step."""

    class Session(GuessSession):
        async def step(self, reply: Message) -> Step:
            step = await GuessSession.step(self, reply)
            return session_step(self, reply, step) or step

    class Variant(GuessEnv):
        def session(self) -> GuessSession:
            return Session(self, 0)

    return Variant


async def failures(
    broken: type[GuessEnv], splits: Sequence[str] = ("train",), tasks: int = 1
) -> dict[str, str]:
    findings = await check_env(make(broken), splits, tasks)
    return {finding.name.split(": ", 1)[-1]: finding.seen for finding in findings if not finding.passed}


def test_the_game_has_the_shape_of_an_environment() -> None:
    assert isinstance(make()(), Env)
    assert isinstance(make()(), Demonstrator)


async def test_a_good_environment_passes() -> None:
    findings = await check_env(make(), ["train", "valid_unseen"], 3)
    assert [finding for finding in findings if not finding.passed] == []
    assert len(findings) == 1 + 2 * (1 + 3 * 6)


async def test_a_split_that_the_caller_misspelt_is_the_callers() -> None:
    with pytest.raises(ConfigError, match="no split 'test'"):
        await check_env(make(), ["test"], 1)


async def test_tasks_that_fail_are_a_finding() -> None:
    class Broken(GuessEnv):
        def tasks(self, split: str) -> Sequence[Task]:
            raise OSError("no data")

    assert await failures(Broken) == {
        "an unknown split is refused": "OSError: no data",
        "has tasks": "OSError: no data",
    }


async def test_a_split_without_tasks_is_a_finding() -> None:
    class Broken(GuessEnv):
        def tasks(self, split: str) -> Sequence[Task]:
            return [] if split == "train" else super().tasks(split)

    assert await failures(Broken) == {"tasks are deterministic": "split 'train' has no tasks"}


async def test_accepting_any_split_is_a_finding() -> None:
    class Broken(GuessEnv):
        def tasks(self, split: str) -> Sequence[Task]:
            return super().tasks("train")

    assert await failures(Broken) == {
        "an unknown split is refused": "an unknown split must raise ConfigError"
    }


async def test_tasks_that_differ_between_instances_are_a_finding() -> None:
    count = itertools.count()

    class Broken(GuessEnv):
        def __init__(self, settings: Settings) -> None:
            super().__init__(settings)
            self.instance = next(count)

        def tasks(self, split: str) -> Sequence[Task]:
            return [Task(f"{self.instance}", "guess", data=t.data) for t in super().tasks(split)]

    assert await failures(Broken) == {"tasks are deterministic": "two instances give different tasks"}


async def test_a_nondeterministic_environment_is_a_finding() -> None:
    count = itertools.count()

    def stamp(session: GuessSession, reply: Message, step: Step) -> Step | None:
        if step.observation is None:
            return None
        return Step(Observation((Message("user", f"Step {next(count)}."),)), action_valid=step.action_valid)

    seen = await failures(variant(stamp))
    assert "the same replies give the same episode" in seen
    assert "bad replies are data, not errors" not in seen


async def test_an_environment_that_raises_on_junk_is_a_finding() -> None:
    class Session(GuessSession):
        async def step(self, reply: Message) -> Step:
            if "{{" in reply.content:
                raise ValueError("unbalanced braces")
            return await GuessSession.step(self, reply)

    class Broken(GuessEnv):
        def session(self) -> GuessSession:
            return Session(self, 0)

    seen = await failures(Broken)
    assert seen["bad replies are data, not errors"] == "ValueError: unbalanced braces"


async def test_rewarding_junk_is_a_finding() -> None:
    def reward(session: GuessSession, reply: Message, step: Step) -> Step | None:
        return None if step.action_valid else Step(step.observation, reward=0.1, action_valid=False)

    seen = await failures(variant(reward))
    assert seen == {"bad replies are data, not errors": "10 of 10 junk replies were valid or rewarded"}


async def test_sessions_that_leak_into_each_other_are_a_finding() -> None:
    class Leaky(GuessEnv):
        live = 0

        def session(self) -> GuessSession:
            env = self

            class Session(GuessSession):
                async def start(self, task: Task) -> Observation:
                    env.live += 1
                    return await GuessSession.start(self, task)

                async def step(self, reply: Message) -> Step:
                    step = await GuessSession.step(self, reply)
                    text = f"{step.observation and step.observation.messages[0].content} ({env.live} live)"
                    return Step(Observation((Message("user", text),)), action_valid=False)

                async def close(self) -> None:
                    env.live -= self.high > 0
                    self.high = 0

            return Session(self, 0)

        expert = None  # type: ignore[assignment]

    seen = await failures(Leaky)
    assert seen["sessions do not touch each other"] == "another live session changed what this one showed"


async def test_state_keys_that_are_not_json_are_a_finding() -> None:
    def bad_key(session: GuessSession, reply: Message, step: Step) -> Step:
        return Step(Observation((Message("user", "x"),), state_key={1, 2}), action_valid=False)  # type: ignore[arg-type]

    seen = await failures(variant(bad_key))
    assert "not JSON serializable" in seen["state keys and info are JSON"]


async def test_a_close_that_works_once_is_a_finding() -> None:
    class Session(GuessSession):
        async def close(self) -> None:
            if self.closed:
                raise ValueError("closed twice")
            self.closed = 1

    class Broken(GuessEnv):
        def session(self) -> GuessSession:
            return Session(self, 0)

    assert await failures(Broken) == {"close is idempotent": "ValueError: closed twice"}


async def test_an_expert_that_loses_is_a_finding() -> None:
    class Broken(GuessEnv):
        def expert(self, *, seed: int, slip_rate: float = 0.0) -> GuessExpert:
            return GuessExpert(0, seed, 0.0)

    seen = await failures(Broken)
    assert seen == {"its expert solves it": "the expert did not solve it in 100 steps"}


async def test_an_environment_that_hangs_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check, "CALL_TIMEOUT_S", 0.05)

    class Session(GuessSession):
        async def step(self, reply: Message) -> Step:
            await asyncio.sleep(3600)
            raise AssertionError

    class Broken(GuessEnv):
        def session(self) -> GuessSession:
            return Session(self, 0)

    assert "TimeoutError" in (await failures(Broken))["bad replies are data, not errors"]


def failed(findings: Sequence[Finding]) -> dict[str, str]:
    return {finding.name: finding.seen for finding in findings if not finding.passed}


@pytest.mark.parametrize("name", registry.names("tool"))
async def test_every_shipped_tool_keeps_the_contract(name: str) -> None:
    findings = await check_tool(registry.load("tool", name))
    assert failed(findings) == {}
    assert len(findings) >= 4


@pytest.mark.parametrize("name", registry.names("env"))
async def test_every_shipped_environment_keeps_the_contract(name: str) -> None:
    plugin = registry.load("env", name)
    settings = parse_settings(plugin.Settings, {}, where="defaults")
    findings = await check_env(lambda: plugin(settings), ["train", "valid_unseen"], 2)
    assert failed(findings) == {}


async def test_a_plain_function_is_not_a_tool() -> None:
    (finding,) = await check_tool(len)
    assert (finding.passed, finding.name) == (False, "is a Tool")
    assert "@tool" in finding.seen


async def test_a_tool_without_required_arguments_may_be_called_without_any() -> None:
    @tool
    async def now() -> str:
        """Tell the time."""
        raise ToolError("no clock")

    findings = await check_tool(now)
    assert failed(findings) == {}
    assert "a call with no arguments is answered" not in {finding.name for finding in findings}
