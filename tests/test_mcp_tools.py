"""Tools of MCP servers: real servers, over standard input and over HTTP, that do whatever goes wrong."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
import time
from collections.abc import AsyncGenerator, Generator
from pathlib import Path
from typing import Any

import mcp_fake_server
import pytest

from agentrl.errors import ConfigError, ToolsetError
from agentrl.mcp_tools import McpToolset
from agentrl.tool import ToolResult, call_tool
from agentrl.types import ToolCall

STDIO = (*mcp_fake_server.COMMAND, "stdio")
USABLE = [name for name in mcp_fake_server.SCHEMAS if name not in ("no schema", "badly_described")]
GONE_S = 15.0


@pytest.fixture(scope="module")
def address() -> Generator[str]:
    with mcp_fake_server.running_http() as url:
        yield url


@contextlib.asynccontextmanager
async def opened(kind: str, address: str, **options: Any) -> AsyncGenerator[McpToolset]:
    where: dict[str, Any] = {"url": address} if kind == "http" else {"command": STDIO}
    async with McpToolset(**where, **options) as toolset:
        yield toolset


async def call(toolset: McpToolset, name: str, **arguments: Any) -> ToolResult:
    return await call_tool(toolset.tools, ToolCall("c1", name, arguments), {})


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def ended(pid: int) -> bool:
    until = time.monotonic() + GONE_S
    while alive(pid) and time.monotonic() < until:
        time.sleep(0.05)
    return not alive(pid)


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_the_tools_of_a_server_are_listed_and_called(kind: str, address: str) -> None:
    async with opened(kind, address, prefix="fake__") as toolset:
        assert list(toolset.tools) == [f"fake__{name}" for name in USABLE]
        function = toolset.tools["fake__add"].schema()["function"]
        assert function == {
            "name": "fake__add",
            "description": "The tool add.",
            "parameters": mcp_fake_server.NUMBERS,
        }
        assert await call(toolset, "fake__add", a=1, b=2) == ToolResult("c1", "3")
        assert (await call(toolset, "fake__picture")).content == (
            "[image, image/png]\ninside\n[resource file:///b]"
        )


@pytest.mark.parametrize("kind", ["stdio", "http"])
@pytest.mark.parametrize(
    ("name", "arguments", "answer"),
    [
        ("no such", {}, "there is no tool 'no such'"),
        ("add", {}, "bad arguments for add: arguments: 'a' is a required property"),
        ("add", {"a": 1, "b": "2"}, "b: '2' is not of type 'integer'"),
        ("add", {"a": 1, "b": 2000}, "b: 2000 is greater than the maximum of 1000"),
        ("add", {"a": 1, "b": 2, "c": 3}, "Additional properties are not allowed ('c' was unexpected)"),
        ("refuse", {}, "Error: the door is locked"),
        ("reject", {}, "Error: this moon does not exist"),
    ],
)
async def test_a_models_mistake_is_an_answer(
    kind: str, address: str, name: str, arguments: dict[str, Any], answer: str
) -> None:
    async with opened(kind, address) as toolset:
        result = await call(toolset, name, **arguments)
        assert not result.valid
        assert answer in result.content
        assert (await call(toolset, "add", a=1, b=1)).content == "2"


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_long_result_is_cut_and_says_so(kind: str, address: str) -> None:
    async with opened(kind, address, max_result_chars=100) as toolset:
        result = await call(toolset, "long", chars=500_000)
        assert result.content == "x" * 100 + "\n[cut: 499,900 more characters]"


@pytest.mark.parametrize("levels", [900, 5000])
async def test_arguments_nested_without_end_are_the_models_mistake(levels: int, address: str) -> None:
    deep: Any = []
    for _ in range(levels):
        deep = [deep]
    async with opened("stdio", address) as toolset:
        result = await call(toolset, "nest", x=deep)
        assert not result.valid
        assert "nested too deeply" in result.content


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_server_that_fails_is_not_the_models_mistake(kind: str, address: str) -> None:
    async with opened(kind, address) as toolset:
        with pytest.raises(ToolsetError, match="the disk is full") as caught:
            await call(toolset, "crash")
        assert caught.value.code == "mcp.failed"
        assert caught.value.detail["tool"] == "crash"
        assert (await call(toolset, "add", a=1, b=1)).content == "2"


@pytest.mark.parametrize("kind", ["stdio", "http"])
async def test_a_tool_that_hangs_times_out_and_the_next_call_is_answered(kind: str, address: str) -> None:
    async with opened(kind, address, timeout_s=1.0) as toolset:
        with pytest.raises(ToolsetError, match="gave no answer in 1 s") as caught:
            await call(toolset, "hang")
        assert caught.value.code == "mcp.timeout"
        for _ in range(30):  # on a busy machine a second may be too short for a good answer too
            with contextlib.suppress(ToolsetError):
                assert (await call(toolset, "add", a=1, b=1)).content == "2"
                break
        else:
            pytest.fail("the server that was started again answers nothing")


async def test_a_process_that_dies_fails_its_call_and_is_started_again(address: str) -> None:
    async with opened("stdio", address) as toolset:
        first = int((await call(toolset, "pid")).content)
        with pytest.raises(ToolsetError) as caught:
            await call(toolset, "die")
        assert caught.value.code == "mcp.lost"
        second = int((await call(toolset, "pid")).content)
        assert first != second
    assert ended(second)


async def test_a_server_that_was_restarted_is_found_again() -> None:
    with mcp_fake_server.running_http() as url:
        toolset = McpToolset(url=url)
        await toolset.open()
    try:
        with pytest.raises(ToolsetError) as caught:
            await call(toolset, "add", a=1, b=1)
        assert caught.value.code == "mcp.lost"
        with mcp_fake_server.running_http(int(url.partition("1:")[2].partition("/")[0])):
            assert (await call(toolset, "add", a=1, b=1)).content == "2"
    finally:
        await toolset.close()


async def test_a_process_gets_none_of_our_secrets(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AGENTRL_TOKEN", "hush")
    monkeypatch.setenv("SOME_PASSWORD", "hush")
    async with opened("stdio", address, environment={"GIVEN": "yes"}) as toolset:
        seen = json.loads((await call(toolset, "environment")).content)
    assert seen["GIVEN"] == "yes"
    assert "hush" not in seen.values()
    assert "PATH" in seen


async def test_the_token_travels_as_a_bearer(address: str) -> None:
    async with opened("http", address, token="hush") as toolset:
        seen = json.loads((await call(toolset, "environment")).content)
    assert seen["authorization"] == "Bearer hush"


async def test_calls_of_one_loop_share_a_connection_and_closing_ends_its_process(address: str) -> None:
    async with opened("stdio", address) as toolset:
        pids = {(await call(toolset, "pid")).content for _ in range(3)}
        sums = await asyncio.gather(*(call(toolset, "add", a=n, b=n) for n in range(50)))
        assert [result.content for result in sums] == [str(2 * n) for n in range(50)]
        (pid,) = pids
        assert alive(int(pid))
    assert ended(int(pid))
    await toolset.close()


def test_every_loop_has_a_connection_of_its_own() -> None:
    toolset = McpToolset(command=STDIO)

    async def play() -> int:
        await toolset.open()
        pid = int((await call(toolset, "pid")).content)
        await toolset.close()
        return pid

    pids = [asyncio.run(play()) for _ in range(2)]
    assert pids[0] != pids[1]
    assert not any(alive(pid) for pid in pids)


def test_a_loop_that_ends_without_closing_leaves_no_process() -> None:
    toolset = McpToolset(command=STDIO)

    async def play() -> int:
        await toolset.open()
        return int((await call(toolset, "pid")).content)

    assert not alive(asyncio.run(play()))


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ({"url": "http://127.0.0.1:1/mcp"}, "ConnectError"),
        ({"command": ("/no/such/program",)}, "FileNotFoundError"),
        ({"command": (sys.executable, "-c", "")}, "MCPError"),
        ({"command": (sys.executable, "-c", "print('hello')")}, "MCPError"),
        ({"command": (*STDIO, "silent"), "start_timeout_s": 1.0}, "no answer in 1 s"),
    ],
)
async def test_a_server_that_does_not_answer_is_told_so(where: dict[str, Any], why: str) -> None:
    toolset = McpToolset(**where)
    try:
        for _ in range(2):  # the second time at once
            with pytest.raises(ToolsetError, match="cannot use the MCP server") as caught:
                await toolset.open()
            assert caught.value.code == "mcp.unreachable"
            assert why in caught.value.message
    finally:
        await toolset.close()
    assert not toolset.tools


async def test_a_schema_never_makes_us_fetch_what_it_refers_to(address: str) -> None:
    async with opened("stdio", address) as toolset:
        with pytest.raises(ToolsetError, match="Unresolvable"):
            await call(toolset, "refer", x=1)


async def test_a_cancelled_call_leaves_the_connection_usable(address: str) -> None:
    async with opened("http", address) as toolset:
        waiting = asyncio.create_task(call(toolset, "hang"))
        await asyncio.sleep(0.3)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        assert (await call(toolset, "add", a=1, b=1)).content == "2"


@pytest.mark.parametrize("where", [{}, {"url": "http://127.0.0.1:1/mcp", "command": ("x",)}, {"command": ()}])
def test_a_server_is_at_an_address_or_a_command(where: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either a url or a command"):
        McpToolset(**where)


def test_without_the_sdk_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mcp.client.client", None)
    with pytest.raises(ConfigError, match=r"install agentrl\[serve\]"):
        McpToolset(command=STDIO)


def test_importing_the_module_does_not_import_the_sdk() -> None:
    code = "import sys, agentrl.mcp_tools; sys.exit('mcp' in sys.modules or 'jsonschema' in sys.modules)"
    assert os.spawnv(os.P_WAIT, sys.executable, [sys.executable, "-c", code]) == 0
