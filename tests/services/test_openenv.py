"""OpenEnv's own clients and validator, unchanged, against our server; and what they never send."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncGenerator, Generator
from concurrent.futures import FIRST_COMPLETED, wait
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from openenv_process import OpenEnvError, OpenEnvProcess
from service_cases import SEED, SMALL, WAIT_S, expert_episode, wait_for
from service_process import ServiceProcess, running_service
from websockets.asyncio.client import ClientConnection, connect

TOKEN = "a/secret@for:one"


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


def refused(error: pytest.ExceptionInfo[OpenEnvError], code: str) -> None:
    assert error.value.kind == "RuntimeError"
    assert f"(code: {code})" in error.value.message


# The unchanged client --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["async", "sync"])
async def test_openenvs_client_wins_a_whole_episode(
    openenv: OpenEnvProcess, service: ServiceProcess, kind: str
) -> None:
    commands, texts = await expert_episode(SEED)
    client = openenv.client(service.url, kind)

    result = client.reset(seed=SEED, episode_id="the first")
    assert (result["reward"], result["done"]) == (None, False)
    seen = [result["observation"]["text"]]
    for count, command in enumerate(commands, 1):
        assert not result["done"]
        assert command in result["observation"]["admissible_commands"]
        result = client.step({"command": command})
        seen.append(result["observation"]["text"])
        assert client.state()["step_count"] == count

    assert seen == texts
    assert (result["reward"], result["done"], result["observation"]["won"]) == (10.0, True, True)
    state = client.state()
    assert (state["episode_id"], state["step_count"], state["done"]) == ("the first", len(commands), True)
    with pytest.raises(OpenEnvError) as error:
        client.step({"command": "look"})
    refused(error, "EPISODE_DONE")

    assert client.reset(seed=SEED)["observation"]["text"] == texts[0]
    state = client.state()
    assert (state["step_count"], state["done"]) == (0, False)
    assert state["episode_id"] != "the first"
    client.close()


def test_before_the_first_reset_there_is_a_state_but_no_step(
    openenv: OpenEnvProcess, service: ServiceProcess
) -> None:
    client = openenv.client(service.url)
    assert client.state() == {"episode_id": None, "step_count": 0}
    with pytest.raises(OpenEnvError) as error:
        client.step({"command": "look"})
    refused(error, "SESSION_ERROR")
    assert client.reset(seed=SEED)["done"] is False
    client.close()


@pytest.mark.parametrize(
    ("action", "wrong"),
    [
        ({}, "command"),
        ({"comand": "look"}, "comand"),
        ({"command": 5}, "command"),
        ({"command": None}, "command"),
        ({"command": "look", "more": 1}, "more"),
    ],
)
def test_a_bad_action_is_refused_and_the_session_lives_on(
    openenv: OpenEnvProcess, one_worker: ServiceProcess, action: dict[str, Any], wrong: str
) -> None:
    client = openenv.client(one_worker.url)
    client.reset(seed=SEED)
    before = client.state()
    with pytest.raises(OpenEnvError) as error:
        client.step(action)
    refused(error, "VALIDATION_ERROR")
    assert f"{wrong}: " in error.value.message
    assert client.state() == before
    assert client.step({"command": "look"})["observation"]["valid"] is True
    client.close()


def test_what_is_no_command_of_the_game_is_an_observation(
    openenv: OpenEnvProcess, one_worker: ServiceProcess
) -> None:
    client = openenv.client(one_worker.url)
    client.reset(seed=SEED)
    for nonsense in ("", "fly to the moon", "x" * 10_000, "\0\n\t", "🜁 go"):
        result = client.step({"command": nonsense})
        assert result["observation"]["text"] == "Nothing happens."
        assert (result["observation"]["valid"], result["reward"], result["done"]) == (False, 0.0, False)
    assert client.state()["step_count"] == 5
    client.close()


@pytest.mark.parametrize("seed", [-1, "7", 1.5, True, 1 << 63])
def test_a_seed_is_a_whole_number(openenv: OpenEnvProcess, one_worker: ServiceProcess, seed: Any) -> None:
    client = openenv.client(one_worker.url)
    with pytest.raises(OpenEnvError) as error:
        client.reset(seed=seed)
    refused(error, "VALIDATION_ERROR")
    assert client.reset(seed=None)["done"] is False
    client.close()


def test_openenvs_client_sends_the_token_of_its_url(openenv: OpenEnvProcess) -> None:
    with running_service(*SMALL, environment={"AGENTRL_TOKEN": TOKEN}) as service:
        address = service.url.removeprefix("http://")
        allowed = f"http://anyone:{quote(TOKEN, safe='')}@{address}"

        client = openenv.client(allowed)
        client.reset(seed=SEED)
        assert client.step({"command": "look"})["observation"]["valid"] is True
        client.close()
        assert openenv.validate(allowed)["passed"] is True

        for denied in (service.url, f"http://anyone:wrong@{address}"):
            with pytest.raises(OpenEnvError) as error:
                openenv.client(denied).reset(seed=SEED)
            assert error.value.kind == "ConnectionError"
            assert "401" in error.value.message
            assert openenv.validate(denied)["passed"] is False


# OpenEnv's tools -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("production", [False, True], ids=["in steps", "over HTTP"])
def test_openenvs_tool_client_lists_and_calls_tools_without_a_reset(
    openenv: OpenEnvProcess, service: ServiceProcess, production: bool
) -> None:
    client = openenv.client(service.url, "mcp", production=production)
    tools = client.call("list_tools")
    assert [tool["name"] for tool in tools] == ["act", "look", "inventory"]
    assert list(tools[0]["input_schema"]["properties"]) == ["command"]
    assert "not carrying anything" in str(client.call("call_tool", "inventory"))
    assert "Nothing happens." in str(client.call("call_tool", "act", command="fly"))
    client.close()


def test_a_wrong_call_of_a_tool_says_what_is_wrong(
    openenv: OpenEnvProcess, one_worker: ServiceProcess
) -> None:
    client = openenv.client(one_worker.url, "mcp")
    for name, arguments, kind in (("fly", {}, "tool_not_found"), ("act", {"speed": 3}, "invalid_args")):
        with pytest.raises(OpenEnvError) as error:
            client.call("call_tool", name, **arguments)
        assert f"(type: {kind})" in error.value.message
    assert client.call("call_tool", "inventory") == "You are not carrying anything."
    assert client.call("state")["step_count"] == 1
    client.close()


# Many clients ----------------------------------------------------------------------------------------------


async def test_twenty_clients_at_eight_places_wait_for_each_other(openenv: OpenEnvProcess) -> None:
    commands, texts = await expert_episode(SEED)
    with running_service(*SMALL, "max_sessions=8") as service:
        clients = [openenv.client(service.url) for _ in range(20)]
        resets = {client.begin("reset", seed=SEED): client for client in clients}
        wait_for(service, active_sessions=8, waiting=12)
        wins = 0
        while resets:
            inside, _ = wait(resets, WAIT_S, return_when=FIRST_COMPLETED)
            assert inside
            for reset in inside:
                client = resets.pop(reset)
                assert reset.result()["observation"]["text"] == texts[0]
                for command in commands:
                    result = client.step({"command": command})
                wins += result["observation"]["won"]
                client.close()
        assert wins == 20
        wait_for(service, active_sessions=0, waiting=0)


async def test_a_full_service_without_a_queue_refuses_with_counts(openenv: OpenEnvProcess) -> None:
    with running_service(*SMALL, "max_sessions=2", "queue=0") as service:
        inside = [openenv.client(service.url) for _ in range(2)]
        for client in inside:
            client.reset(seed=SEED)
        outside = openenv.client(service.url)
        with pytest.raises(OpenEnvError) as error:
            outside.reset(seed=SEED)
        refused(error, "CAPACITY_REACHED")
        async with connect(socket_of(service)) as socket:
            data = (await said(socket, {"type": "reset"}))["data"]
            assert (data["code"], data["active_sessions"], data["max_sessions"]) == ("CAPACITY_REACHED", 2, 2)
        status, body = service.post("/reset", {"seed": SEED})
        assert (status, body["error"]["detail"]["active_sessions"]) == (429, 2)

        inside[0].close()
        wait_for(service, active_sessions=1)
        assert outside.reset(seed=SEED)["done"] is False


# What OpenEnv's client never sends -------------------------------------------------------------------------

LOOK = {"type": "step", "data": {"command": "look"}}

MALFORMED: list[tuple[str | bytes, str]] = [
    ("", "INVALID_JSON"),
    ("{", "INVALID_JSON"),
    ("NaN", "INVALID_JSON"),
    ('{"type": "step", "data": {"command": "\\ud800"}}', "INVALID_JSON"),
    ("[" * 5_000 + "]" * 5_000, "INVALID_JSON"),
    (b"\xff\xfe\x00", "INVALID_JSON"),
    ("[]", "VALIDATION_ERROR"),
    ('[{"type": "step"}]', "VALIDATION_ERROR"),
    ("null", "VALIDATION_ERROR"),
    ('"step"', "VALIDATION_ERROR"),
    ("3", "VALIDATION_ERROR"),
    ("{}", "UNKNOWN_TYPE"),
    ('{"type": null}', "UNKNOWN_TYPE"),
    ('{"type": ["step"]}', "UNKNOWN_TYPE"),
    ('{"type": "jump", "data": {}}', "UNKNOWN_TYPE"),
    ('{"type": "step"}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": "look"}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": [1]}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"command": {"type": "look"}}}', "VALIDATION_ERROR"),
    ('{"type": "step", "data": {"type": "call_tool", "tool_name": ["act"]}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"seed": "one"}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"seed": 1e99}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"index": 123456789}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"split": "test"}}', "VALIDATION_ERROR"),
    ('{"type": "reset", "data": {"episode_id": 5}}', "VALIDATION_ERROR"),
    ('{"type": "batch", "items": {}}', "VALIDATION_ERROR"),
    ('{"type": "state", "session_id": "0-0000000000000000"}', "SESSION_ERROR"),
    (json.dumps({"type": "step", "data": {"command": "x" * (2 << 20)}}), "EXECUTION_ERROR"),
]


def socket_of(service: ServiceProcess) -> str:
    return service.url.replace("http", "ws", 1) + "/ws"


@asynccontextmanager
async def begun(service: ServiceProcess) -> AsyncGenerator[ClientConnection]:
    """A raw socket with an episode."""
    async with connect(socket_of(service)) as socket:
        assert (await said(socket, {"type": "reset", "data": {"seed": SEED}}))["type"] == "observation"
        yield socket


async def said(socket: ClientConnection, message: Any) -> dict[str, Any]:
    """Send a message and return the answer."""
    await socket.send(message if isinstance(message, str | bytes) else json.dumps(message))
    return json.loads(await asyncio.wait_for(socket.recv(), WAIT_S))


@pytest.mark.parametrize(("raw", "code"), MALFORMED, ids=[str(raw[:30]) for raw, _ in MALFORMED])
async def test_a_malformed_message_never_ends_a_session(
    one_worker: ServiceProcess, raw: str | bytes, code: str
) -> None:
    async with begun(one_worker) as socket:
        before = await said(socket, {"type": "state"})
        answer = await said(socket, raw)
        assert answer["type"] == "error"
        assert answer["data"]["code"] == code
        assert answer["data"]["message"]
        assert answer["data"]["next_step"]
        assert await said(socket, {"type": "state"}) == before
        taken = await said(socket, LOOK)
        assert taken["data"]["observation"]["valid"] is True


async def test_a_wrong_json_rpc_request_is_answered_as_one(one_worker: ServiceProcess) -> None:
    async with begun(one_worker) as socket:
        for wrong, code in (
            (None, -32600),
            ([], -32600),
            ({"method": 5}, -32600),
            ({"method": "tools/fly"}, -32601),
            ({"method": "tools/list", "params": []}, -32602),
        ):
            answer = await said(socket, {"type": "mcp", "data": wrong})
            assert answer["type"] == "mcp"
            assert answer["data"]["error"]["code"] == code
        assert (await said(socket, LOOK))["data"]["observation"]["valid"] is True


async def test_a_tool_call_by_json_rpc_acts_in_the_sockets_own_episode(service: ServiceProcess) -> None:
    call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "look", "arguments": {}}}
    async with connect(socket_of(service)) as socket:
        for count in (1, 2):
            answer = await said(socket, {"type": "mcp", "data": call})
            assert answer["data"]["result"]["isError"] is False
            assert (await said(socket, {"type": "state"}))["data"]["step_count"] == count


# The validator ---------------------------------------------------------------------------------------------


def test_openenv_validate_passes(openenv_interpreter: Path, service: ServiceProcess) -> None:
    command = [openenv_interpreter.parent / "openenv", "validate", "--url", service.url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"] is True
    assert report["mode"] == "simulation"
    assert [item["id"] for item in report["criteria"] if not item["passed"]] == []
