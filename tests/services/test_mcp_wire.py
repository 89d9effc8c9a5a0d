"""MCP's path without the SDK's client: raw requests, OpenEnv's plain JSON-RPC, and WebSockets."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Generator
from typing import Any

import httpx2
import pytest
from mcp_cases import HELLO, MCP_HEADERS, OWN, SMALL, WAIT_S, rpc, session_state
from service_process import ServiceProcess, running_service
from websockets.asyncio.client import connect

DEEP = "[" * 3000 + "]" * 3000
HANDSHAKE = {"Mcp-Protocol-Version": "2025-11-25"}
MODERN = {"Mcp-Protocol-Version": "2026-07-28"}
CALL_LOOK = json.dumps(rpc("tools/call", name="look", arguments={}))


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


@pytest.mark.parametrize("version", ["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25"])
def test_every_revision_with_a_handshake_is_served(service: ServiceProcess, version: str) -> None:
    url = f"{service.url}/mcp"
    hello = httpx2.post(url, json=rpc("initialize", **{**HELLO, "protocolVersion": version}))
    assert hello.json()["result"]["protocolVersion"] == version
    headers = {"Mcp-Session-Id": hello.headers["mcp-session-id"]}
    if version >= "2025-06-18":  # earlier ones knew no such header
        headers["Mcp-Protocol-Version"] = version
    ready = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    assert httpx2.post(url, json=ready, headers=headers).status_code == 202
    assert "result" in httpx2.post(url, json=rpc("ping"), headers=headers).json()
    for name in ("new_episode", "look"):
        asked = rpc("tools/call", name=name, arguments={})
        assert httpx2.post(url, json=asked, headers=headers).json()["result"]["isError"] is False
    assert httpx2.delete(url, headers=headers).status_code == 204


@pytest.mark.parametrize("headers", [{}, HANDSHAKE, MODERN, {"Mcp-Protocol-Version": "1999"}], ids=str)
@pytest.mark.parametrize(
    "body",
    [
        "",
        "{",
        "[]",
        "null",
        "7",
        '"x"',
        "{}",
        DEEP,
        '{"a": ' + DEEP + "}",
        '{"jsonrpc": "2.0", "id": 1' + "0" * 6000 + ', "method": "tools/list"}',
        '{"jsonrpc": "2.0", "id": 1.5, "method": "tools/list"}',
        '{"jsonrpc": "2.0", "id": [1], "method": "tools/list"}',
        '{"jsonrpc": "2.0", "id": true, "method": "tools/list"}',
        '{"jsonrpc": "2.0", "id": "\\ud800", "method": "tools/list"}',
        '{"jsonrpc": "2.0", "id": 1, "method": 5}',
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": []}',
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": 1}}',
        '{"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look", "arguments": [1]}}',
        '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}',
        '{"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {"protocolVersion": 5}}',
        '{"jsonrpc": "2.0", "id": 1, "method": "no/such"}',
        '{"jsonrpc": "2.0", "method": "notifications/cancelled", "params": {"requestId": 1}}',
        '{"jsonrpc": "2.0", "id": 1, "result": {}}',
        CALL_LOOK,
    ],
    ids=lambda body: body[:40] or "empty",
)
def test_no_request_makes_the_service_fail(
    one_worker: ServiceProcess, headers: dict[str, str], body: str
) -> None:
    for accept in ({}, MCP_HEADERS, {"Accept": "text/html", "Content-Type": "text/plain"}):
        answer = httpx2.post(f"{one_worker.url}/mcp", content=body, headers={**accept, **headers})
        assert answer.status_code in (200, 202, 400, 404), answer.text
        if answer.status_code == 202:
            continue
        if "result" not in answer.json():
            error = answer.json()["error"]
            assert error["message"]
            assert isinstance(error["code"], int | str)


@pytest.mark.parametrize("headers", [{}, MCP_HEADERS], ids=["plain", "mcp"])
def test_a_body_that_is_too_large_is_refused(one_worker: ServiceProcess, headers: dict[str, str]) -> None:
    asked = rpc("tools/call", name="act", arguments={"command": "x" * 2_000_000})
    answer = httpx2.post(f"{one_worker.url}/mcp", json=asked, headers=headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "wire.too_large")


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "some.proxy.example:9999"])
def test_any_name_of_the_host_is_served_and_no_other_sites_page(
    one_worker: ServiceProcess, name: str
) -> None:
    asked = rpc("initialize", **HELLO)
    headers = {**MCP_HEADERS, "Host": name}
    answer = httpx2.post(f"{one_worker.url}/mcp", json=asked, headers=headers)
    assert answer.json()["result"]["serverInfo"]["name"] == "alfworld"
    other_page = {**headers, "Origin": "http://elsewhere.example"}
    assert httpx2.post(f"{one_worker.url}/mcp", json=asked, headers=other_page).status_code == 403


def test_there_is_no_stream_to_open_and_no_unknown_session_to_end(one_worker: ServiceProcess) -> None:
    url = f"{one_worker.url}/mcp"
    assert httpx2.get(url, headers={"Accept": "text/event-stream"}).status_code == 405
    assert httpx2.delete(url).status_code == 400
    assert httpx2.delete(url, headers={"Mcp-Session-Id": "0-00.x"}).status_code == 404
    begun = httpx2.post(url, json=rpc("initialize", **HELLO), headers=MCP_HEADERS)
    handle = {"Mcp-Session-Id": begun.headers["mcp-session-id"]}
    assert httpx2.delete(url, headers=handle).status_code == 204
    assert set(httpx2.get(f"{one_worker.url}/openapi.json").json()["paths"]["/mcp"]) == {"post", "delete"}


# OpenEnv's JSON-RPC ----------------------------------------------------------------------------------------


def test_plain_json_rpc_needs_no_handshake(service: ServiceProcess) -> None:
    def ask(method: str, **params: Any) -> dict[str, Any]:
        status, answer = service.post("/mcp", rpc(method, **params))
        assert status == 200
        assert answer["jsonrpc"] == "2.0"
        return answer

    assert service.post("/mcp", {})[1]["error"]["code"] == -32600
    assert [tool["name"] for tool in ask("tools/list")["result"]["tools"]] == OWN[1:]
    named = {"session_id": ask("openenv/session/create")["result"]["session_id"]}
    for _ in range(3):
        looked = ask("tools/call", name="look", arguments={}, **named)["result"]
        assert not looked["isError"]
        assert "middle of a room" in looked["content"][0]["text"]
    assert session_state(service, named["session_id"])["step_count"] == 3
    assert ask("tools/call", name="fly", **named)["result"]["isError"]
    assert ask("openenv/session/close", **named)["result"]["closed"]
    for wrong in (named, {"session_id": "x"}, {"session_id": 5}, {}):
        error = ask("tools/call", name="look", arguments={}, **wrong)["error"]
        assert error["code"] == -32602
        assert error["data"]["next_step"] in error["message"]


async def test_json_rpc_over_websockets_plays_in_the_sockets_own_session(service: ServiceProcess) -> None:
    address = service.url.replace("http", "ws")
    look = rpc("tools/call", name="look", arguments={})
    frames: list[Any] = [look, rpc("tools/list"), {}, [], 5, rpc("no/such"), look]
    for path in ("/ws", "/mcp"):
        async with connect(address + path, open_timeout=WAIT_S) as line:
            answers: list[dict[str, Any]] = []
            for frame in frames:
                await line.send(json.dumps({"type": "mcp", "data": frame} if path == "/ws" else frame))
                answer = json.loads(await asyncio.wait_for(line.recv(), WAIT_S))
                answers.append(answer["data"] if path == "/ws" else answer)
            assert [answer["jsonrpc"] for answer in answers] == ["2.0"] * len(frames)
            assert ["error" in answer for answer in answers] == [False, False, True, True, True, True, False]
            assert answers[0]["result"]["content"] == answers[-1]["result"]["content"]


async def test_nonsense_on_mcps_websocket_is_answered(one_worker: ServiceProcess) -> None:
    address = one_worker.url.replace("http", "ws") + "/mcp"
    async with connect(address, open_timeout=WAIT_S) as line:
        for nonsense, code in (("{", -32700), (b"\xff", -32700), (DEEP, -32700), ("x" * 2_000_000, -32600)):
            await line.send(nonsense)
            assert json.loads(await asyncio.wait_for(line.recv(), WAIT_S))["error"]["code"] == code
        await line.send(json.dumps(rpc("tools/list")))
        assert "result" in json.loads(await asyncio.wait_for(line.recv(), WAIT_S))
