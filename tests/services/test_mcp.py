"""MCP with the official SDK's client, in every protocol that it speaks, against real services."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Generator
from typing import Any

import httpx2
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_cases import (
    HELLO,
    MCP_HEADERS,
    MODES,
    OWN,
    SMALL,
    WAIT_S,
    begin,
    client_of,
    rpc,
    said,
    session_state,
    shown,
)
from mcp_types import CallToolResult
from service_process import ServiceProcess, running_service

from agentrl.errors import ConfigError
from agentrl.types import Message
from envs.alfworld import AlfWorld
from envs.alfworld.settings import Settings
from services._base.app import create_env_app
from services._base.service import ServiceTool
from services._base.settings import ServiceSettings
from services.alfworld import Act, AlfWorldService

INDEX = 3


@pytest.fixture(scope="module")
def one_worker() -> Generator[ServiceProcess]:
    with running_service(*SMALL) as service:
        yield service


@pytest.fixture(scope="module")
def two_workers() -> Generator[ServiceProcess]:
    with running_service(*SMALL, "--workers", "2") as service:
        yield service


@pytest.fixture(params=["one_worker", "two_workers"])
def service(request: pytest.FixtureRequest) -> ServiceProcess:
    return request.getfixturevalue(request.param)


async def expert_episode(index: int) -> tuple[list[str], list[str]]:
    """The commands that win a game, and everything that the game says, played in this process."""
    env = AlfWorld(Settings(size="small", style="plain", instructions=False))
    session, expert = env.session(), env.expert(seed=0)
    seen = await session.start(env.tasks("train")[index])
    commands, texts = [], [seen.info["text"]]
    while True:
        commands.append(expert.act(seen).text)
        step = await session.step(Message("assistant", commands[-1]))
        if step.observation is None:
            return commands, [*texts, step.info["final_observation"]]
        seen = step.observation
        texts.append(seen.info["text"])


@pytest.mark.parametrize("mode", MODES)
async def test_the_sdks_client_wins_a_whole_game(service: ServiceProcess, mode: str) -> None:
    commands, texts = await expert_episode(INDEX)
    async with client_of(service, mode) as client:
        begun = await client.call_tool("new_episode", {"split": "train", "index": INDEX})
        named = {} if mode == "legacy" else {"session": shown(begun)["session"]}
        assert said(begun).startswith(texts[0])
        assert (named.get("session", "?") in said(begun)) == (mode != "legacy")
        for command, text in zip(commands, texts[1:], strict=True):
            taken = await client.call_tool("act", {"command": command, **named})
            assert said(taken).startswith(text)
            assert shown(taken)["observation"]["text"] == text
        assert (shown(taken)["reward"], shown(taken)["done"]) == (10.0, True)
        assert said(taken).endswith("The episode is over. new_episode begins another.")

        over = await client.call_tool("look", named)
        assert over.is_error
        assert "is over after" in said(over)
        assert "call new_episode" in said(over)
        again = await client.call_tool("new_episode", {"index": INDEX, **named})
        assert shown(again)["session"] == shown(begun)["session"]
        assert said(again).startswith(texts[0])


@pytest.mark.parametrize("mode", MODES)
async def test_tools_are_listed_with_a_session_where_the_protocol_has_none(
    service: ServiceProcess, mode: str
) -> None:
    async with client_of(service, mode) as client:
        assert client.protocol_version == ("2025-11-25" if mode == "legacy" else "2026-07-28")
        if mode != "2026-07-28":  # which asks nothing before it calls
            assert client.server_info is not None
            assert client.server_info.name == "alfworld"
            assert "new_episode" in (client.instructions or "")
        tools = {tool.name: tool for tool in (await client.list_tools()).tools}
    assert list(tools) == OWN
    assert all(tool.description for tool in tools.values())
    named = [name for name, tool in tools.items() if "session" in tool.input_schema["properties"]]
    assert named == ([] if mode == "legacy" else ["act", "look", "inventory"])
    assert tools["act"].input_schema["required"] == [*(["session"] if named else []), "command"]
    assert set(tools["new_episode"].input_schema["properties"]) == {"split", "index", "seed"}


async def test_a_session_is_reached_whichever_worker_is_asked(two_workers: ServiceProcess) -> None:
    episodes: dict[str, dict[str, Any]] = {}
    until = time.monotonic() + WAIT_S
    while len(episodes) < 2 and time.monotonic() < until:
        async with client_of(two_workers) as client:
            named = await begin(client, index=len(episodes))
            episodes.setdefault(named["session"].partition("-")[0], named)
    assert sorted(episodes) == ["0", "1"]
    for mode in MODES:
        async with client_of(two_workers, mode) as client:
            for named in episodes.values():
                await begin(client, **named)
                for _ in range(3):
                    assert "middle of a room" in said(await client.call_tool("look", named))


async def test_many_episodes_of_one_client_do_not_mix(service: ServiceProcess) -> None:
    async with client_of(service) as client:
        many = await asyncio.gather(*(begin(client, index=index % 5) for index in range(20)))
        assert len({named["session"] for named in many}) == 20
        for _ in range(3):
            await asyncio.gather(*(client.call_tool("act", {"command": "look", **named}) for named in many))
        states = [session_state(service, named["session"]) for named in many]
        assert [state["step_count"] for state in states] == [3] * 20
        assert len({state["task_id"] for state in states}) == 5


async def test_leaving_a_handshake_ends_its_session(service: ServiceProcess) -> None:
    async with client_of(service, "legacy") as client:
        named = await begin(client)
        assert not (await client.call_tool("look")).is_error
    async with client_of(service, "legacy") as other:
        ended = await other.call_tool("look", named)
        assert ended.is_error
        assert "is over: closed by its client; call new_episode" in said(ended)


async def test_a_session_that_ended_is_begun_again_under_its_handle(service: ServiceProcess) -> None:
    async with client_of(service, "legacy") as client:
        named = await begin(client)
        session_id, _, key = named["session"].partition(".")
        closed = httpx2.delete(f"{service.url}/sessions/{session_id}", headers={"X-Session-Key": key})
        assert closed.status_code == 200
        ended = await client.call_tool("look")
        assert ended.is_error
        assert "is over: closed by its client; call new_episode" in said(ended)
        assert await begin(client) == named
        assert not (await client.call_tool("look")).is_error


async def test_a_full_service_still_lists_its_tools_and_says_that_it_is_full() -> None:
    with running_service(*SMALL, "max_sessions=1", "queue=0", "resume_s=600") as service:
        async with client_of(service) as first:
            await begin(first)
            for mode in MODES:
                async with client_of(service, mode) as client:
                    assert [tool.name for tool in (await client.list_tools()).tools] == OWN
                    refused = await client.call_tool("new_episode")
                    assert refused.is_error
                    assert "all 1 sessions are in use" in said(refused)
                    assert "ask again" in said(refused)


async def test_a_handshake_takes_no_place_until_an_episode_begins(one_worker: ServiceProcess) -> None:
    def live() -> int:
        return one_worker.get("/metadata")[1]["active_sessions"]

    before = live()
    async with client_of(one_worker, "legacy") as client:
        await client.list_tools()
        early = await client.call_tool("look")
        assert early.is_error
        assert "call new_episode first" in said(early)
        assert live() == before
        await asyncio.gather(*(client.call_tool("new_episode") for _ in range(10)))  # all in the one session
        assert live() == before + 1
    assert live() == before


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("fly", {}, "there is no tool 'fly'; the tools are new_episode, act, look, inventory"),
        ("act", {}, "bad arguments for act: command: Field required"),
        ("act", {"command": 7}, "bad arguments for act: command"),
        ("act", {"command": None}, "bad arguments for act: command"),
        ("act", {"command": "x" * 200_000}, "this is not an action of alfworld: command"),
        ("look", {"session": "nonsense"}, "there is no session 'nonsense' here"),
        ("look", {"session": "0-0123456789abcdef.guessed"}, "call new_episode, without a session"),
        ("look", {"session": "1-0123456789abcdef.guessed"}, "call new_episode, without a session"),
        ("look", {"session": 5}, "session_id: expected text"),
        ("look", {"session": {"a": ["\x00"]}}, "session_id: expected text"),
        ("look", {"session": "x" * 9000}, "session_id: expected text of 1 to 255 characters"),
        ("new_episode", {"session": "nonsense"}, "without a session, for a new one"),
        ("new_episode", {"index": -1}, "bad arguments for new_episode: index"),
        ("new_episode", {"index": 10**9}, "index: expected a whole number from 0 to"),
        ("new_episode", {"split": "test"}, "valid_seen"),
        ("new_episode", {"game": "chess"}, "bad arguments for new_episode: game"),
    ],
)
async def test_a_wrong_call_is_a_result_that_says_what_to_do(
    one_worker: ServiceProcess, mode: str, name: str, arguments: dict[str, Any], answer: str
) -> None:
    async with client_of(one_worker, mode) as client:
        named = await begin(client)
        result = await client.call_tool(name, {**named, **arguments})
        assert result.is_error
        assert answer in said(result)
        assert len(said(result)) < 2000
        assert not (await client.call_tool("look", named)).is_error


async def test_a_known_id_without_its_key_opens_nothing(service: ServiceProcess) -> None:
    async with client_of(service) as client:
        named = await begin(client)
        session_id, _, key = named["session"].partition(".")
        for guess in (session_id, f"{session_id}.", f"{session_id}.{key[:-1]}", f"{session_id}.{key}x"):
            for name in ("look", "new_episode"):
                result = await client.call_tool(name, {"session": guess})
                assert result.is_error
                assert "pass the session exactly as new_episode gave it" in said(result)
        assert session_state(service, named["session"])["step_count"] == 0


async def test_without_the_token_nothing_is_listed_and_tokens_are_apart() -> None:
    with running_service(*SMALL, environment={"AGENTRL_TOKEN": "mine,yours"}) as service:
        assert httpx2.post(f"{service.url}/mcp", json={}).status_code == 401
        url = f"{service.url}/mcp"
        answers: list[CallToolResult] = []
        named: dict[str, Any] = {}
        for token in ("mine", "yours", "mine"):
            for mode in MODES:
                headers = {"Authorization": f"Bearer {token}"}
                async with (
                    httpx2.AsyncClient(headers=headers) as http,
                    Client(streamable_http_client(url, http_client=http), mode=mode) as client,
                ):
                    assert [tool.name for tool in (await client.list_tools()).tools] == OWN
                    named = named or await begin(client)
                    answers.append(await client.call_tool("look", named))
        assert [answer.is_error for answer in answers] == [False] * 3 + [True] * 3 + [False] * 3
        begun = httpx2.post(url, json=rpc("initialize", **HELLO), headers=headers | MCP_HEADERS)
        handle = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
        asked = rpc("tools/call", name="new_episode", arguments={})
        for token, stolen in (("yours", True), ("mine", False)):
            headers = {**MCP_HEADERS, **handle, "Authorization": f"Bearer {token}"}
            made = httpx2.post(url, json=asked, headers=headers).json()["result"]["structuredContent"]
            assert (made["session"] != handle["Mcp-Session-Id"]) == stolen


async def test_a_restarted_worker_is_survived_by_beginning_again(one_worker: ServiceProcess) -> None:
    async with httpx2.AsyncClient(base_url=one_worker.url, headers=MCP_HEADERS, timeout=WAIT_S) as http:
        begun = await http.post("/mcp", json=rpc("initialize", **HELLO))
        handle = begun.headers["mcp-session-id"]
        headers = {"Mcp-Session-Id": handle, "Mcp-Protocol-Version": "2025-11-25"}

        async def call(name: str, **arguments: Any) -> CallToolResult:
            asked = rpc("tools/call", name=name, arguments=arguments)
            answer = await http.post("/mcp", json=asked, headers={**headers, "Connection": "close"})
            assert answer.status_code == 200, answer.text
            return CallToolResult.model_validate(answer.json()["result"])

        assert shown(await call("new_episode"))["session"] == handle
        (pid,) = one_worker.worker_pids
        os.kill(pid, signal.SIGKILL)
        await asyncio.to_thread(wait_for_another_worker, one_worker, pid)
        gone = await call("look")
        assert gone.is_error
        assert "there is no session" in said(gone)
        again = await call("new_episode")
        named = {"session": shown(again)["session"]}
        assert named["session"] != handle
        assert f"session: {named['session']}" in said(again)
        assert not (await call("look", **named)).is_error


def wait_for_another_worker(service: ServiceProcess, pid: int) -> None:
    until = time.monotonic() + WAIT_S
    while service.worker_pids in ([], [pid]) and time.monotonic() < until:
        time.sleep(0.1)


def test_an_environments_tools_leave_the_names_of_sessions_free() -> None:
    for tool in (ServiceTool("new_episode", "Begin.", Act), ServiceTool("go", "Go.", Named)):
        service = AlfWorldService(Settings(size="small"))
        service.tools = (tool,)
        with pytest.raises(ConfigError, match="no tool may be called new_episode"):
            create_env_app(service, ServiceSettings())


class Named(Act):
    session: str
