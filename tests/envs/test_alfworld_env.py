"""The plug-in: tasks, sessions, styles of replies, the protocol that every environment keeps."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from agentrl import registry
from agentrl.check import check_env
from agentrl.errors import ConfigError, EnvError
from agentrl.types import Message, Observation, Step, Task, ToolCall
from envs.alfworld import AlfWorld
from envs.alfworld.export import export
from envs.alfworld.generator import generate
from envs.alfworld.settings import Settings


def make(**options: Any) -> AlfWorld:
    return AlfWorld(Settings(**{"size": "small", **options}))


async def start(env: AlfWorld, index: int = 0) -> tuple[Any, Observation]:
    session = env.session()
    return session, await session.start(env.tasks("train")[index])


async def reply(session: Any, text: str, *calls: ToolCall) -> Step:
    return await session.step(Message("assistant", text, tool_calls=calls))


def shown(step: Step) -> Observation:
    assert step.observation is not None
    return step.observation


@pytest.fixture
def real_data(tmp_path: Path) -> Path:
    for split in ("train", "valid_seen", "valid_unseen"):
        games = [generate(i, split=split, size="small", grammar=("new", "old")[i % 2]) for i in range(4)]
        export(tmp_path, games, split)
    return tmp_path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"style": "plain", "grammar": "old"},
        {"think": True, "list_admissible": True, "anchor": "observation", "instructions": False},
    ],
)
async def test_it_keeps_the_protocol(options: dict[str, Any]) -> None:
    findings = await check_env(lambda: make(**options), ["train", "valid_seen", "valid_unseen"])
    assert [finding for finding in findings if not finding.passed] == []


async def test_it_keeps_the_protocol_on_files(real_data: Path) -> None:
    findings = await check_env(lambda: make(data=real_data), ["train", "valid_seen", "valid_unseen"])
    assert [finding for finding in findings if not finding.passed] == []


def test_it_is_found_by_its_id() -> None:
    assert registry.load("env", "alfworld") is AlfWorld


def test_tasks_are_lazy_distinct_and_balanced() -> None:
    tasks = make(train_games=1_000_000_000).tasks("train")
    assert len(tasks) == 1_000_000_000
    first = tasks[:60]
    assert len({task.task_id for task in first}) == 60
    assert Counter(task.kind for task in first) == dict.fromkeys(Settings().task_types, 10)
    assert tasks[-1] == tasks[999_999_999]
    with pytest.raises(IndexError):
        tasks[1_000_000_000]


def test_settings_refuse_what_they_do_not_know() -> None:
    with pytest.raises(ValidationError):
        Settings.model_validate({"max_steps": 50})
    with pytest.raises(ConfigError, match="valid_unseen"):
        make().tasks("test")


async def test_a_win_ends_the_episode_with_the_success_reward() -> None:
    env = make(success_reward=7.0)
    session, observation = await start(env)
    expert = env.expert(seed=0)
    rewards: list[float] = []
    while True:
        step = await session.step(Message("assistant", expert.act(observation).text))
        rewards.append(step.reward)
        if step.observation is None:
            break
        observation = step.observation
    assert rewards == [0.0] * (len(rewards) - 1) + [7.0]
    assert (step.terminated, step.correct, step.info["won"]) == (True, True, True)
    with pytest.raises(EnvError, match="is over"):
        await reply(session, "<action>look</action>")


async def test_a_session_is_single_use() -> None:
    env = make()
    session, _ = await start(env)
    with pytest.raises(EnvError, match="was used"):
        await session.start(env.tasks("train")[0])
    with pytest.raises(EnvError, match="not started"):
        await reply(env.session(), "look")


async def test_action_style() -> None:
    session, observation = await start(make())
    assert observation.messages[0].role == "system"
    go = next(c for c in observation.info["admissible_commands"] if c.startswith("go to"))
    for text, valid, formed in (
        (f"I think. <action> {go.upper()} </action>", True, True),
        ("<action>fly</action>", False, True),
        ("look", False, False),
        (f"{'x' * 50} inventory", False, False),
    ):
        step = await reply(session, text)
        assert (step.action_valid, step.format_ok) == (valid, formed), text
    assert (await reply(session, "inventory")).info == {"won": False}
    assert shown(await reply(session, "inventory")).info["text"] == "You are not carrying anything."


async def test_thoughts_are_asked_for() -> None:
    session, observation = await start(make(think=True))
    assert "<think>" in observation.messages[0].content
    assert not (await reply(session, "<action>look</action>")).action_valid
    assert (await reply(session, "<think>hm</think><action>look</action>")).action_valid


async def test_tool_call_style() -> None:
    session, observation = await start(make(style="tool_call"))
    assert '"name": "act"' in observation.messages[0].content
    good, other = ToolCall("a", "act", {"command": "look"}), ToolCall("b", "act", {"command": "inventory"})
    step = await reply(session, "", good)
    assert (step.action_valid, step.tool_calls) == (True, 1)
    assert [(m.role, m.tool_call_id) for m in shown(step).messages] == [("tool", "a")]
    step = await reply(session, "", good, other)
    assert (step.action_valid, [m.tool_call_id for m in shown(step).messages]) == (False, ["a", "b"])
    for bad in (
        ToolCall("c", "fly", {}),
        ToolCall("c", "act", None, "not JSON"),
        ToolCall("c", "act", {"command": 3}),
    ):
        step = await reply(session, "", bad)
        assert not step.action_valid
        assert shown(step).messages[0].content.startswith("Error: ")
    assert shown(await reply(session, "no call")).messages[0] == Message("user", "Nothing happens.")


async def test_admissible_commands_are_shown_on_request() -> None:
    _, observation = await start(make(list_admissible=True))
    assert "'look'" in observation.messages[-1].content
    assert "'help'" not in observation.messages[-1].content
    assert "'look'" not in observation.info["text"]


@pytest.mark.parametrize("accept_aliases", [True, False])
async def test_the_other_wording_is_accepted_only_on_request(accept_aliases: bool) -> None:
    env = make(style="plain", accept_aliases=accept_aliases)
    session, observation = await start(env)
    expert = env.expert(seed=0)
    while True:
        command = expert.act(observation).text
        if command.startswith("move "):
            break
        observation = shown(await reply(session, command))
    put = command.replace("move ", "put ").replace(" to ", " in/on ")
    assert (await reply(session, put)).action_valid is accept_aliases


async def test_the_state_key_is_the_state_or_the_text() -> None:
    session, first = await start(make(style="plain"))
    go = next(c for c in first.info["admissible_commands"] if c.startswith("go to"))
    assert shown(await reply(session, "inventory")).state_key == first.state_key
    assert shown(await reply(session, go)).state_key != first.state_key
    session, first = await start(make(style="plain", anchor="observation"))
    assert shown(await reply(session, "inventory")).state_key == "You are not carrying anything."


@pytest.mark.parametrize(
    "data",
    [
        {},
        {"seed": "x"},
        {"seed": 1, "task_type": "fly"},
        {"seed": 1, "size": []},
        {"path": "../../etc/passwd"},
        {"seed": 1, "split": "train"},
    ],
)
async def test_tasks_from_elsewhere_are_refused(data: dict[str, Any], real_data: Path) -> None:
    for env in (make(), make(data=real_data)):
        with pytest.raises(EnvError):
            await env.session().start(Task("t", "alfworld", data=data))


@pytest.mark.timeout(5)
@pytest.mark.parametrize("style", ["action", "plain", "tool_call"])
async def test_a_hostile_reply_costs_little(style: Any) -> None:
    session, _ = await start(make(style=style, think=True, accept_aliases=True))
    for text in ("<think><action>" * 100_000, "put a in/on " * 100_000, "move a to " * 100_000):
        assert not (await reply(session, text)).action_valid
