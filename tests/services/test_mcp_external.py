"""The tools of others' MCP servers beside an environment's own: real services, real servers, real faults."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import Generator
from typing import Any

import httpx2
import mcp_fake_server
import pytest
from mcp.client.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_cases import MODES, OWN, SMALL, WAIT_S, begin, client_of, rpc, said, session_state
from mcp_types import Tool
from pydantic import ValidationError
from service_process import ServiceProcess, running_service

from services._base.settings import McpServerSettings, ServiceSettings

EXTERNAL = [
    f"{server}__{name}"
    for server in ("web", "local", "hasty")
    for name in mcp_fake_server.SCHEMAS
    if name not in ("no schema", "badly_described")
]


@pytest.fixture(scope="module")
def servers() -> Generator[str]:
    """The setting that names one server of each kind, and one that is not there."""
    with mcp_fake_server.running_http() as url:
        command = json.dumps([*mcp_fake_server.COMMAND, "stdio"])
        web = f'{{name = "web", url = "{url}"}}'
        local = f'{{name = "local", command = {command}, pass_environment = ["GIVEN"]}}'
        hasty = f'{{name = "hasty", url = "{url}", timeout_s = 0.5}}'
        away = '{name = "away", url = "http://127.0.0.1:1/mcp"}'
        yield f"mcp_servers=[{web}, {local}, {hasty}, {away}]"


@pytest.fixture(scope="module")
def one_worker(servers: str) -> Generator[ServiceProcess]:
    with running_service(*SMALL, servers, environment={"GIVEN": "yes", "KEPT": "hush"}) as service:
        yield service


@pytest.fixture(scope="module")
def two_workers(servers: str) -> Generator[ServiceProcess]:
    with running_service(*SMALL, servers, "--workers", "2", environment={"GIVEN": "yes"}) as service:
        yield service


@pytest.fixture(params=["one_worker", "two_workers"])
def service(request: pytest.FixtureRequest) -> ServiceProcess:
    return request.getfixturevalue(request.param)


@pytest.mark.parametrize("mode", MODES)
async def test_other_servers_tools_are_listed_after_the_environments(
    service: ServiceProcess, mode: str
) -> None:
    tools: dict[str, Tool] = {}
    until = time.monotonic() + WAIT_S
    async with client_of(service, mode) as client:
        while list(tools) != OWN + EXTERNAL and time.monotonic() < until:  # a busy machine starts them late
            tools = {tool.name: tool for tool in (await client.list_tools(cache_mode="bypass")).tools}
    assert list(tools) == OWN + EXTERNAL
    assert tools["web__add"].description == "The tool add."
    assert tools["web__add"].input_schema == mcp_fake_server.NUMBERS


def test_plain_json_rpc_lists_and_calls_them_without_a_session(one_worker: ServiceProcess) -> None:
    service = one_worker
    plain = service.post("/mcp", rpc("tools/list"))[1]["result"]["tools"]
    assert [tool["name"] for tool in plain] == OWN[1:] + EXTERNAL
    asked = rpc("tools/call", name="web__add", arguments={"a": 1, "b": 2})
    result = service.post("/mcp", asked)[1]["result"]
    assert (result["content"][0]["text"], result["isError"]) == ("3", False)
    failed = service.post("/mcp", rpc("tools/call", name="web__crash", arguments={}))[1]["error"]
    assert (failed["code"], failed["data"]["code"]) == (-32000, "mcp.failed")


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("server", ["web", "local"])
async def test_the_tools_of_other_servers_answer_beside_the_episode(
    service: ServiceProcess, mode: str, server: str
) -> None:
    async with client_of(service, mode) as client:
        named = await begin(client)
        assert said(await client.call_tool(f"{server}__add", {"a": 40, "b": 2})) == "42"
        for name, arguments, answer in (
            ("add", {"a": 1}, "'b' is a required property"),
            ("add", {"a": 1, "b": 2, **named}, "'session' was unexpected"),
            ("refuse", {}, "the door is locked"),
            ("no_such", {}, "there is no tool"),
            ("crash", {}, "the disk is full"),
        ):
            result = await client.call_tool(f"{server}__{name}", arguments)
            assert result.is_error
            assert answer in said(result)
        assert said(await client.call_tool(f"{server}__add", {"a": 1, "b": 1})) == "2"
        assert session_state(service, named["session"])["step_count"] == 0
        assert not (await client.call_tool("look", named)).is_error


async def test_a_tool_that_hangs_is_told_in_time(service: ServiceProcess) -> None:
    async with client_of(service) as client:
        results = await asyncio.gather(*(client.call_tool("hasty__hang") for _ in range(3)))
        assert all(result.is_error for result in results)
        assert all("gave no answer in 0.5 s" in said(result) for result in results)
        assert said(await client.call_tool("web__add", {"a": 1, "b": 1})) == "2"


async def test_a_server_that_dies_is_told_and_started_again(service: ServiceProcess) -> None:
    async with client_of(service) as client:
        died = await client.call_tool("local__die")
        assert died.is_error
        assert "retry" in said(died)
        assert said(await client.call_tool("local__add", {"a": 1, "b": 1})) == "2"


async def test_a_server_that_is_away_is_told_so(one_worker: ServiceProcess) -> None:
    async with client_of(one_worker) as client:
        result = await client.call_tool("away__add", {"a": 1, "b": 1})
        assert result.is_error
        assert "cannot use the MCP server http://127.0.0.1:1/mcp" in said(result)


@pytest.mark.slow
async def test_a_server_that_comes_later_is_found() -> None:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
    silent = json.dumps([*mcp_fake_server.COMMAND, "stdio", "silent"])
    others = (
        f'{{name = "late", url = "http://127.0.0.1:{port}/mcp"}}, {{name = "silent", command = {silent}}}'
    )
    late = f"mcp_servers=[{others}]"
    with running_service(*SMALL, late) as service, mcp_fake_server.running_http(port):
        async with client_of(service, "legacy") as client:
            names = [tool.name for tool in (await client.list_tools()).tools]
            assert names == OWN
            until = time.monotonic() + WAIT_S
            while names == OWN and time.monotonic() < until:
                await asyncio.sleep(0.2)
                names = [tool.name for tool in (await client.list_tools()).tools]
            assert "late__add" in names
            assert said(await client.call_tool("late__add", {"a": 1, "b": 1})) == "2"


async def test_a_started_server_sees_what_it_is_given_and_ends_with_the_service(servers: str) -> None:
    environment = {"GIVEN": "yes", "KEPT": "hush", "AGENTRL_TOKEN": "hush"}
    headers = {"Authorization": "Bearer hush"}
    with running_service(*SMALL, servers, environment=environment) as service:
        async with (
            httpx2.AsyncClient(headers=headers) as http,
            Client(streamable_http_client(f"{service.url}/mcp", http_client=http)) as client,
        ):
            seen = json.loads(said(await client.call_tool("local__environment")))
            pid = int(said(await client.call_tool("local__pid")))
        assert seen["GIVEN"] == "yes"
        assert "hush" not in seen.values()
        os.kill(pid, 0)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ([{"name": "a"}], "either a url or a command"),
        ([{"name": "a", "url": "http://x", "command": ["x"]}], "either a url or a command"),
        ([{"name": "a", "url": "ftp://x"}], "match pattern"),
        ([{"name": "a", "command": []}], "at least 1 item"),
        ([{"name": "a__b", "url": "http://x"}], "match pattern"),
        ([{"name": "a", "url": "http://x"}] * 2, "have the same name"),
        ([{"name": "a", "url": "http://x", "token_variable": "NOT_SET"}], "environment variable NOT_SET"),
        ([{"name": "a", "command": ["x"], "pass_environment": ["NOT_SET"]}], "environment variable NOT_SET"),
        ([{"name": "a", "url": "http://x", "token": "hush"}], "not permitted"),
    ],
)
def test_a_wrong_setting_of_a_server_is_told(given: list[dict[str, Any]], why: str) -> None:
    with pytest.raises(ValidationError, match=why):
        ServiceSettings.model_validate({"mcp_servers": given})
    right = McpServerSettings(name="a", url="http://x")
    assert ServiceSettings(mcp_servers=(right,)).mcp_servers == (right,)
